package pods

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/devices"
	"clusterctl/nodeagent/runtime"
)

// noCgroups stands for a host whose control groups nobody may touch.
type noCgroups struct{}

func (noCgroups) Parent(*v1.Pod) string                { return "/kubepods" }
func (noCgroups) Create(*v1.Pod, cgroups.Limits) error { return nil }
func (noCgroups) Balance([]*v1.Pod) error              { return nil }
func (noCgroups) Remove(types.UID) error               { return nil }
func (noCgroups) Pods() []types.UID                    { return nil }

// bench is an agent between a fake API and a fake runtime.
type bench struct {
	t       *testing.T
	client  *fake.Clientset
	cri     *critest.FakeRuntimeService
	images  *critest.FakeImageService
	dir     string
	node    *v1.Node // nil: room for everything
	groups  Cgroups
	devices Devices
	guard   func(context.Context, *v1.Pod) error
	static  manifests
	running *Agent
	stop    func()
}

type noDevices struct{}

func (noDevices) Prepare(context.Context, *v1.Pod) error        { return nil }
func (noDevices) Unprepare(context.Context, types.UID) error    { return nil }
func (noDevices) Pods() []types.UID                             { return nil }
func (noDevices) Health(*v1.Pod) map[string][]v1.ResourceStatus { return nil }
func (noDevices) Watch(func(types.UID))                         {}
func (noDevices) Access(context.Context, *v1.Pod, *v1.Container) (*devices.Access, error) {
	return &devices.Access{}, nil
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, client: fake.NewClientset(), cri: critest.NewFakeRuntimeService(), images: critest.NewFakeImageService(), dir: t.TempDir(), groups: noCgroups{}, devices: noDevices{}}
	b.images.SetFakeImages([]string{"docker.io/library/i:latest"})
	return b
}

// agent makes an agent on the bench's host, with cri as its runtime.
func (b *bench) agent(ctx context.Context, cri internalapi.RuntimeService) *Agent {
	logger := slog.New(slog.DiscardHandler)
	factory := informers.NewSharedInformerFactory(b.client, 0)
	var static StaticPods
	if b.static != nil {
		static = b.static
	}
	agent := New(ctx, Config{
		Static:   static,
		StateDir: b.dir, LogDir: filepath.Join(b.dir, "logs"), Domain: "cluster.local", DNSAddress: "10.96.0.10",
		HostIPs: func() []string { return []string{"192.0.2.1"} }, MemoryCapacity: 1 << 30,
		Client: b.client, Runtime: runtime.New(cri, b.images, logger), Cgroups: b.groups, Devices: b.devices,
		Services: factory.Core().V1().Services().Lister(), Pods: factory.Core().V1().Pods().Informer(),
		Synced:   []cache.InformerSynced{factory.Core().V1().Services().Informer().HasSynced},
		Recorder: record.NewFakeRecorder(1000), Logger: logger,
		Node: func() *v1.Node { return b.node }, NetworkReady: func() bool { return true }, Guard: b.guard,
	})
	factory.Start(ctx.Done())
	return agent
}

// start runs an agent; calling it again is a restart.
func (b *bench) start() {
	ctx, cancel := context.WithCancel(b.t.Context())
	agent := b.agent(ctx, b.cri)
	b.running = agent
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	}
}

// watching returns once the agent follows the API: what happens between a list
// and the watch that follows it is lost on the fake. The agent removes mirrors
// of nothing; one that is made after another has been removed comes by a watch.
func (b *bench) watching() {
	b.t.Helper()
	removed := 0
	for i := 0; removed < 2; i++ {
		if i == 1000 {
			b.t.Fatal("the agent never follows the API")
		}
		probe := &v1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "probes", Name: fmt.Sprint("p", i), Annotations: map[string]string{v1.MirrorPodAnnotationKey: ""}}}
		probes := b.client.CoreV1().Pods(probe.Namespace)
		if _, err := probes.Create(b.t.Context(), probe, metav1.CreateOptions{}); err != nil {
			b.t.Fatal(err)
		}
		for range 5 {
			time.Sleep(10 * time.Millisecond)
			if _, err := probes.Get(b.t.Context(), probe.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
				removed++
				break
			}
		}
	}
}

// until waits for the pod, as the API has it, to look as wanted.
func (b *bench) until(what string, holds func(*v1.Pod) bool) *v1.Pod {
	b.t.Helper()
	return b.untilPod("p", what, holds)
}

func (b *bench) untilPod(name, what string, holds func(*v1.Pod) bool) *v1.Pod {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		pod, err := b.client.CoreV1().Pods("n").Get(b.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			pod = nil
		}
		if holds(pod) {
			return pod
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the pod is never %s: %+v", what, pod)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func ready(p *v1.Pod) bool {
	c := condition(&p.Status, v1.PodReady)
	return c != nil && c.Status == v1.ConditionTrue
}

func TestNoContainerIsMadeBeforeThePodIsGuarded(t *testing.T) {
	b := newBench(t)
	asked, pass := make(chan string, 100), make(chan struct{})
	b.guard = func(ctx context.Context, pod *v1.Pod) error {
		asked <- pod.Status.PodIP
		select {
		case <-pass:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), testPod(v1.RestartPolicyAlways), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	defer func() { b.stop() }()
	select {
	case address := <-asked:
		if address == "" {
			t.Error("nobody can guard a pod without an address")
		}
	case <-time.After(time.Minute):
		t.Fatal("the pod's guard is never asked")
	}
	time.Sleep(200 * time.Millisecond)
	if calls := b.cri.GetCalls(); slices.Contains(calls, "CreateContainer") {
		t.Errorf("a container was made before the pod was guarded: %v", calls)
	}
	close(pass)
	b.until("ready", ready)
}

func TestAgentRunsAdoptsRestartsAndDeletes(t *testing.T) {
	b := newBench(t)
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.Containers = pod.Spec.Containers[:1]
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	pod = b.until("ready", func(p *v1.Pod) bool { return ready(p) && p.Status.Phase == v1.PodRunning })
	first := pod.Status.ContainerStatuses[0].ContainerID
	if pod.Status.PodIP == "" || pod.Status.HostIP != "192.0.2.1" || pod.Status.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("status: %+v", pod.Status)
	}

	b.stop()
	before := len(b.cri.GetCalls())
	b.start()
	time.Sleep(1500 * time.Millisecond)
	for _, call := range b.cri.GetCalls()[before:] {
		if slices.Contains([]string{"RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox"}, call) {
			t.Errorf("a restart of the agent did %s", call)
		}
	}
	pod = b.until("ready still", ready)
	if got := pod.Status.ContainerStatuses[0].ContainerID; got != first {
		t.Errorf("after a restart of the agent: container %s, want %s", got, first)
	}

	b.cri.Lock()
	run := b.cri.Containers[strings.TrimPrefix(first, "containerd://")]
	run.State, run.ExitCode, run.Reason, run.FinishedAt = criv1.ContainerState_CONTAINER_EXITED, 3, "Error", time.Now().UnixNano()
	b.cri.Unlock()
	pod = b.until("restarted", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p) })
	if last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 3 {
		t.Errorf("last state: %+v", last)
	}

	now, grace := metav1.Now(), int64(5)
	var told time.Time
	b.until("gone", func(p *v1.Pod) bool {
		// A patch of the fake can undo what is written at the same time; and without
		// versions, the answer to a patch before can undo what the agent has heard since.
		if p != nil && (p.DeletionTimestamp == nil || time.Since(told) > 2*time.Second) {
			told = time.Now()
			p = p.DeepCopy()
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
			if err := b.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), p, "n"); err != nil {
				t.Log(err)
			}
		}
		return p == nil
	})
	deadline := time.Now().Add(time.Minute)
	for {
		b.cri.Lock()
		left := len(b.cri.Sandboxes)
		b.cri.Unlock()
		_, err := os.Stat(filepath.Join(b.dir, "logs", "n_p_u"))
		if left == 0 && os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %d sandboxes, logs %v", left, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if entries, _ := os.ReadDir(filepath.Join(b.dir, "pods")); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
	b.stop()
}

func TestAgentShowsWhyAnImageIsMissing(t *testing.T) {
	b := newBench(t)
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.Containers = []v1.Container{{Name: "a", Image: "none", ImagePullPolicy: v1.PullNever}}
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until("waiting for its image", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull"
	})
	b.stop()
}

func TestAgentTakesAwayWhatIsLeftOfGonePods(t *testing.T) {
	b := newBench(t)
	pod := testPod(v1.RestartPolicyAlways)
	config := &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"}, Labels: runtime.PodLabels(pod)}
	if _, err := b.cri.RunPodSandbox(t.Context(), config, ""); err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(b.dir, "logs")
	for _, name := range []string{"n_p_u", "n_other_w", "not-of-a-pod"} {
		if err := os.MkdirAll(filepath.Join(logs, name, "c"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	deadline := time.Now().Add(time.Minute)
	for {
		b.cri.Lock()
		left := len(b.cri.Sandboxes)
		b.cri.Unlock()
		entries, err := os.ReadDir(logs)
		if left == 0 && err == nil && len(entries) == 1 && entries[0].Name() == "not-of-a-pod" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("of pods that are gone %d sandboxes stay, and of logs %v (%v)", left, entries, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.stop()
}

// The runtime may find again what it does not know of now.
func TestForgottenRunsAreCounted(t *testing.T) {
	b := newBench(t)
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.Containers = pod.Spec.Containers[:1]
	logs := filepath.Join(b.dir, "logs", "n_p_u", pod.Spec.Containers[0].Name)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"2.log", "10.log.20260101-000000", "9.log", "notes"} {
		if err := os.WriteFile(filepath.Join(logs, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until("started for the twelfth time", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 11 })
	b.stop()
}

// A call that is interrupted leaves a process behind, so it is let end.
func TestSteadilyOutlivesItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := steadily(ctx, func(steady context.Context) error {
		cancel()
		time.Sleep(10 * time.Millisecond)
		return steady.Err()
	})
	if err != nil {
		t.Errorf("the call was interrupted: %v", err)
	}
}
