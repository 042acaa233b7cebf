package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"
	"pgregory.net/rapid"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/runtime"
)

func size(cpu, memory string) v1.ResourceRequirements {
	list := func() v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	return v1.ResourceRequirements{Requests: list(), Limits: list()}
}

func sizedPod(name string, cpu string) *v1.Pod {
	pod := testPod("Always")
	pod.Name, pod.UID = name, types.UID(name)
	pod.Spec.Containers = pod.Spec.Containers[:1]
	pod.Spec.Containers[0].Resources = size(cpu, "64Mi")
	return pod
}

func sizedNode(cpu string) *v1.Node {
	return &v1.Node{Status: v1.NodeStatus{Allocatable: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourcePods: resource.MustParse("110")}}}
}

// TestRoomOfPodsThatLeave: a pod that the API has no more may take long to stop,
// and the scheduler has given its room away meanwhile.
func TestRoomOfPodsThatLeave(t *testing.T) {
	var woken []types.UID
	l := newLedger(func() *v1.Node { return sizedNode("1") }, func(uid types.UID) { woken = append(woken, uid) })
	old, wishful, late := sizedPod("old", "600m"), sizedPod("wishful", "200m"), sizedPod("late", "500m")
	for _, pod := range []*v1.Pod{old, wishful} {
		if reason, message := l.admit(pod); reason != "" {
			t.Fatalf("%s: %s %s", pod.Name, reason, message)
		}
	}
	if reason, _ := l.admit(late); reason != "OutOfcpu" {
		t.Errorf("a pod too much: %q", reason)
	}
	more := wishful.DeepCopy()
	more.Spec.Containers[0].Resources = size("500m", "64Mi")
	if granted, _, _ := l.resize(more); granted {
		t.Error("granted what nobody left")
	}
	l.leave("old")
	if len(woken) != 1 || woken[0] != "wishful" {
		t.Errorf("woken: %v", woken)
	}
	if reason, message := l.admit(late); reason != "" {
		t.Errorf("refused what was left: %s %s", reason, message)
	}
	if rooms := l.rooms(); len(rooms) != 3 {
		t.Errorf("%d pods are there, want 3", len(rooms))
	}
	l.release("old")
	if rooms := l.rooms(); len(rooms) != 2 {
		t.Errorf("%d pods are there, want 2", len(rooms))
	}
	l.leave("old") // nobody knows it any more
}

func TestDecideResizes(t *testing.T) {
	pod := testPod("Always", "side")
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].Resources = size("100m", "64Mi")
	}
	pod.Spec.InitContainers[0].Resources = size("100m", "64Mi")
	pod.Spec.Containers[1].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	cases := []struct {
		name string
		do   func(*v1.Pod)
		fix  func(*Situation)
		want []string
	}{
		{"as granted", func(*v1.Pod) {}, nil, nil},
		{"in place", func(p *v1.Pod) { p.Spec.Containers[0].Resources = size("200m", "32Mi") }, nil, []string{"resize"}},
		{"under way", func(p *v1.Pod) { p.Spec.Containers[0].Resources = size("200m", "32Mi") },
			func(s *Situation) { s.Busy["resize"] = true }, nil},
		{"held back", func(p *v1.Pod) { p.Spec.Containers[0].Resources = size("200m", "32Mi") },
			func(s *Situation) { s.Faults["resize"] = Fault{Until: s.Now.Add(9)} }, nil},
		{"a resource that restarts nothing", func(p *v1.Pod) { p.Spec.Containers[1].Resources = size("200m", "64Mi") }, nil, []string{"resize"}},
		{"a resource that restarts", func(p *v1.Pod) { p.Spec.Containers[1].Resources = size("100m", "32Mi") }, nil, []string{"stop b-0 20s"}},
		{"stopped for it: the pod first", func(p *v1.Pod) { p.Spec.Containers[1].Resources = size("100m", "32Mi") },
			func(s *Situation) {
				for i := range s.Actual.Containers {
					if s.Actual.Containers[i].Name == "b" {
						s.Actual.Containers[i].State = runtime.Exited
					}
				}
			}, []string{"resize"}},
		{"a sidecar", func(p *v1.Pod) { p.Spec.InitContainers[0].Resources = size("200m", "32Mi") }, nil, []string{"resize"}},
		{"requests for memory alone", func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests[v1.ResourceMemory] = resource.MustParse("32Mi")
		}, nil, []string{"resize"}},
		{"the same in other words", func(p *v1.Pod) { p.Spec.Containers[0].Resources = size("0.1", "65536Ki") }, nil, nil},
	}
	for _, c := range cases {
		now := pod.DeepCopy()
		c.do(now)
		s := situation(now, run("a", runtime.Running, 0, 0), run("b", runtime.Running, 0, 0), run("side", runtime.Running, 0, 0))
		s.Allotment = allot(pod)
		s.Allotment.Granted = resourcesOf(now)
		if c.fix != nil {
			c.fix(s)
		}
		if got := verbs(Decide(s)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestLedgerGrantsInOrder(t *testing.T) {
	var woken []types.UID
	l := newLedger(func() *v1.Node { return sizedNode("1") }, func(uid types.UID) { woken = append(woken, uid) })
	for _, name := range []string{"first", "second", "urgent", "leaving"} {
		if reason, message := l.admit(sizedPod(name, "250m")); reason != "" {
			t.Fatalf("%s: %s %s", name, reason, message)
		}
	}
	if reason, message := l.admit(sizedPod("late", "1m")); reason != "OutOfcpu" || !strings.Contains(message, "requested: 1, used: 1000, capacity: 1000") {
		t.Errorf("a pod without room: %q %q", reason, message)
	}
	high := int32(100)
	urgent := sizedPod("urgent", "400m")
	urgent.Spec.Priority = &high
	for _, pod := range []*v1.Pod{sizedPod("second", "400m"), sizedPod("first", "400m"), urgent} {
		if granted, reason, _ := l.resize(pod); granted || reason != "OutOfcpu" {
			t.Errorf("%s: granted %v, reason %q", pod.Name, granted, reason)
		}
	}
	woken = nil
	l.release("leaving")
	if want := []types.UID{"urgent"}; !slices.Contains(woken, want[0]) {
		t.Errorf("woken: %v, want %v among them", woken, want)
	}
	for name, want := range map[string]bool{"urgent": true, "second": false, "first": false} {
		pod := sizedPod(name, "400m")
		if got, _, _ := l.resize(pod); got != want {
			t.Errorf("%s: granted %v, want %v", name, got, want)
		}
	}
	// A smaller pod gives what the next in line needs: the one that waits longest.
	if granted, _, _ := l.resize(sizedPod("urgent", "300m")); !granted {
		t.Error("a pod may not shrink")
	}
	if got, _, _ := l.resize(sizedPod("second", "400m")); !got {
		t.Error("second does not get what urgent gave back")
	}
	if got, _, _ := l.resize(sizedPod("first", "400m")); got {
		t.Error("first gets what is not there")
	}
	l.keep("first")
	if got, _, _ := l.resize(sizedPod("first", "250m")); !got {
		t.Error("first cannot stay as it is")
	}
}

// kernel checks at every step what the kernel enforces: the limits of a pod's
// containers fit into its cgroup. It stands for cgroups and runtime alike.
type kernel struct {
	*critest.FakeRuntimeService
	noCgroups
	mu     sync.Mutex
	group  cgroups.Limits
	limits map[string]*criv1.LinuxContainerResources
	faults []string
	fail   error
	usage  uint64
}

func (k *kernel) Create(_ *v1.Pod, limits cgroups.Limits) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.group = limits
	k.check("cgroup")
	return nil
}

func (k *kernel) UpdateContainerResources(_ context.Context, id string, r *criv1.ContainerResources) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	k.limits[id] = r.Linux
	k.check(id)
	return nil
}

func (k *kernel) ContainerStats(context.Context, string) (*criv1.ContainerStats, error) {
	return &criv1.ContainerStats{Memory: &criv1.MemoryUsage{UsageBytes: &criv1.UInt64Value{Value: k.usage}}}, nil
}

func (k *kernel) check(at string) {
	for id, r := range k.limits {
		if k.group.CPUQuota > 0 && r.CpuQuota > k.group.CPUQuota || k.group.Memory > 0 && r.MemoryLimitInBytes > k.group.Memory {
			k.faults = append(k.faults, fmt.Sprintf("after %s: container %s is allowed %d CPU, %d memory, its pod %+v",
				at, id, r.CpuQuota, r.MemoryLimitInBytes, k.group))
		}
	}
}

func TestResizeNeverOutgrowsThePod(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		b := newBench(t)
		b.dir = dir
		pod := testPod("Always", "side")
		draw := func(what string) v1.ResourceRequirements {
			return size(fmt.Sprintf("%dm", rapid.IntRange(20, 500).Draw(r, what+" cpu")), fmt.Sprintf("%dMi", rapid.IntRange(8, 64).Draw(r, what+" memory")))
		}
		pod.Spec.InitContainers[0].Resources = draw("side")
		for i := range pod.Spec.Containers {
			pod.Spec.Containers[i].Resources = draw("old")
		}
		k := &kernel{FakeRuntimeService: b.cri, limits: map[string]*criv1.LinuxContainerResources{}, group: cgroups.PodLimits(pod)}
		for _, c := range resizableContainers(pod) {
			k.limits[c.Name+"-0"] = cgroups.ContainerResources(pod, c, 1<<30)
		}
		b.groups = k
		a := b.agent(t.Context(), k)
		wanted := pod.DeepCopy()
		for i := range wanted.Spec.Containers {
			wanted.Spec.Containers[i].Resources = draw("new")
		}
		w := newWorker(a, wanted, false)
		w.allotment = allot(pod)
		w.allotment.Granted = resourcesOf(wanted)
		s := situation(wanted, run("a", runtime.Running, 0, 0), run("b", runtime.Running, 0, 0), run("side", runtime.Running, 0, 0))
		s.Allotment = w.allotment.clone()
		if !s.resizing() {
			return
		}
		if err := w.resize(t.Context(), s); err != nil {
			r.Fatal(err)
		}
		if len(k.faults) > 0 {
			r.Fatalf("%v", k.faults)
		}
		s.Allotment = w.allotment.clone()
		if s.resizing() || k.group != cgroups.PodLimits(wanted) {
			r.Fatalf("not what was granted: %+v, cgroup %+v", w.allotment, k.group)
		}
		for _, c := range resizableContainers(wanted) {
			if got, want := k.limits[c.Name+"-0"], cgroups.ContainerResources(wanted, c, 1<<30); got.CpuQuota != want.CpuQuota || got.CpuShares != want.CpuShares || got.MemoryLimitInBytes != want.MemoryLimitInBytes {
				r.Fatalf("%s has %v, want %v", c.Name, got, want)
			}
		}
		if kept, err := a.loadAllotment(w.uid); err != nil || !kept.Applied.equal(w.allotment.Applied) {
			r.Fatalf("written down: %+v %v", kept, err)
		}
	})
}

func TestResizeRefusesMemoryInUse(t *testing.T) {
	b := newBench(t)
	pod := sizedPod("p", "100m")
	k := &kernel{FakeRuntimeService: b.cri, limits: map[string]*criv1.LinuxContainerResources{}, usage: 20 << 20}
	b.groups = k
	a := b.agent(t.Context(), k)
	wanted := pod.DeepCopy()
	wanted.Spec.Containers[0].Resources = size("100m", "16Mi")
	w := newWorker(a, wanted, false)
	w.allotment = allot(pod)
	w.allotment.Granted = resourcesOf(wanted)
	s := situation(wanted, run("a", runtime.Running, 0, 0))
	s.Allotment = w.allotment.clone()
	err := w.resize(t.Context(), s)
	want := "cannot decrease memory limits: [attempting to set pod memory limit (16777216) below current usage (20971520), " +
		`attempting to set container "a" memory limit (16777216) below current usage (20971520)]`
	if err == nil || err.Error() != want || w.progress == nil || w.progress.Reason != v1.PodReasonError || w.progress.Message != want {
		t.Errorf("got %v, condition %+v", err, w.progress)
	}
	if len(k.limits) > 0 {
		t.Errorf("changed all the same: %v", k.limits)
	}
	k.usage, k.fail = 0, errors.New("no")
	if err := w.resize(t.Context(), s); err == nil || !strings.Contains(err.Error(), `update memory of container "a": no`) {
		t.Errorf("got %v", err)
	}
}

func TestAgentResizes(t *testing.T) {
	b := newBench(t)
	b.node = sizedNode("1")
	pod := sizedPod("p", "500m")
	pod.UID = "u"
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	change := func(cpu string, generation int64) {
		t.Helper()
		b.until("changed", func(p *v1.Pod) bool {
			p = p.DeepCopy()
			p.Generation, p.Spec.Containers[0].Resources = generation, size(cpu, "64Mi")
			return b.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), p, "n") == nil
		})
	}
	b.start()
	b.until("ready", ready)
	change("2", 4)
	b.until("deferred", func(p *v1.Pod) bool {
		if p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() != 2000 {
			change("2", 4) // a patch of the fake can undo what is written at the same time
		}
		c := condition(&p.Status, v1.PodResizePending)
		return c != nil && c.Reason == v1.PodReasonDeferred && c.ObservedGeneration == 4 &&
			p.Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() == 500
	})
	b.stop()
	b.start() // what was granted survives
	b.until("deferred still", func(p *v1.Pod) bool {
		return condition(&p.Status, v1.PodResizePending) != nil && p.Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() == 500
	})
	if slices.Contains(b.cri.GetCalls(), "UpdateContainerResources") {
		t.Error("a deferred resize was carried out")
	}
	change("800m", 5)
	b.until("resized", func(p *v1.Pod) bool {
		if p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() != 800 {
			change("800m", 5)
		}
		return condition(&p.Status, v1.PodResizePending) == nil && condition(&p.Status, v1.PodResizeInProgress) == nil &&
			p.Status.ObservedGeneration == 5 && p.Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() == 800 &&
			p.Status.Resources.Limits.Cpu().MilliValue() == 800
	})
	if !slices.Contains(b.cri.GetCalls(), "UpdateContainerResources") {
		t.Error("the container was not updated")
	}
	if _, err := os.Stat(filepath.Join(b.dir, "pods", "u", "resources.json")); err != nil {
		t.Error(err)
	}
	b.stop()
}

// TestResizeOfAnInitContainerThatRuns: it changes as it runs; one that has ended
// has nothing to change, and what the runtime is asked it may not know.
func TestResizeOfAnInitContainerThatRuns(t *testing.T) {
	b := newBench(t)
	pod := testPod("Always", "init1", "init2")
	for i := range pod.Spec.InitContainers {
		pod.Spec.InitContainers[i].Resources = size("100m", "32Mi")
	}
	k := &kernel{FakeRuntimeService: b.cri, limits: map[string]*criv1.LinuxContainerResources{}}
	b.groups = k
	a := b.agent(t.Context(), k)
	wanted := pod.DeepCopy()
	for i := range wanted.Spec.InitContainers {
		wanted.Spec.InitContainers[i].Resources = size("200m", "64Mi")
	}
	w := newWorker(a, wanted, false)
	w.allotment = allot(pod)
	w.allotment.Granted = resourcesOf(wanted)
	s := situation(wanted, run("init1", runtime.Exited, 0, 0), run("init2", runtime.Running, 0, 0))
	s.Allotment = w.allotment.clone()
	if got, want := verbs(Decide(s)), []string{"resize"}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if err := w.resize(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if r := k.limits["init2-0"]; len(k.limits) != 1 || r == nil || r.MemoryLimitInBytes != 64<<20 || r.CpuQuota != 20_000 {
		t.Errorf("got %v", k.limits)
	}
	s.Allotment = w.allotment.clone()
	if s.resizing() {
		t.Errorf("still to do: %+v", w.allotment)
	}
}
