package pods

import (
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// burstable asks for less than it may have.
func burstable(name, cpu string) *v1.Pod {
	pod := sizedPod(name, cpu)
	pod.Spec.Containers[0].Resources.Limits = nil
	return pod
}

func critical(pod *v1.Pod) *v1.Pod {
	priority := int32(2_000_000_000)
	pod.Spec.Priority = &priority
	return pod
}

func TestVictims(t *testing.T) {
	bestEffort := testPod("Always")
	bestEffort.Name, bestEffort.UID = "idle", "idle"
	short := func(name v1.ResourceName, missing int64) []shortage { return []shortage{{name: name, wanted: missing}} }
	for _, c := range []struct {
		name   string
		others []*v1.Pod
		short  []shortage
		want   []string
		fault  string
	}{
		{"nothing", []*v1.Pod{sizedPod("g", "1")}, nil, nil, ""},
		{"burstable before guaranteed", []*v1.Pod{sizedPod("g", "1"), burstable("b", "1")}, short("cpu", 500), []string{"b"}, ""},
		{"the smallest that does", []*v1.Pod{burstable("b1", "400m"), burstable("b2", "2"), burstable("b3", "600m")}, short("cpu", 500), []string{"b3"}, ""},
		{"as many as it takes", []*v1.Pod{burstable("b1", "400m"), burstable("b2", "300m"), burstable("b3", "200m")}, short("cpu", 500), []string{"b1", "b3"}, ""},
		{"guaranteed where it must be", []*v1.Pod{sizedPod("g1", "1"), sizedPod("g2", "3"), burstable("b", "500m")}, short("cpu", 2000), []string{"g2"}, ""},
		{"a place", []*v1.Pod{sizedPod("g", "1"), bestEffort}, short("pods", 1), []string{"idle"}, ""},
		{"critical ones stay", []*v1.Pod{critical(sizedPod("c", "4"))}, short("cpu", 10), nil, "no set of running pods found to reclaim resources: [(res: cpu, q: 10), ]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := victims(critical(sizedPod("new", "1")), c.others, c.short)
			var names []string
			for _, pod := range got {
				names = append(names, pod.Name)
			}
			fault := ""
			if err != nil {
				fault = err.Error()
			}
			if !slices.Equal(names, c.want) || fault != c.fault {
				t.Errorf("got %v %q, want %v %q", names, fault, c.want, c.fault)
			}
		})
	}
}

// TestCriticalPodsMakeRoom: and wait until it is there, which nobody else gets.
func TestCriticalPodsMakeRoom(t *testing.T) {
	var mu sync.Mutex
	woken := map[types.UID]bool{}
	l := newLedger(func() *v1.Node { return sizedNode("1") }, func(uid types.UID) {
		mu.Lock()
		defer mu.Unlock()
		woken[uid] = true
	})
	preempted := make(chan string, 10)
	l.preempt = func(pod *v1.Pod, short v1.ResourceName) { preempted <- pod.Name + " " + string(short) }
	for _, pod := range []*v1.Pod{sizedPod("a", "400m"), sizedPod("b", "500m")} {
		if reason, message := l.admit(pod); reason != "" {
			t.Fatal(reason, message)
		}
	}
	c := critical(sizedPod("c", "300m"))
	if reason, message := l.admit(c); reason != "" {
		t.Fatal(reason, message)
	}
	if got := <-preempted; got != "a cpu" {
		t.Errorf("preempted %s", got)
	}
	if !l.waits("c") {
		t.Error("does not wait for the room")
	}
	if reason, _ := l.admit(sizedPod("d", "100m")); reason != "OutOfcpu" {
		t.Errorf("another has the room: %q", reason)
	}
	// One that needs what is being made room of already takes nobody else's.
	if reason, message := l.admit(critical(sizedPod("e", "200m"))); reason != "" || !l.waits("e") || len(preempted) > 0 {
		t.Errorf("a second one: %s %s, waits %v, %d preempted", reason, message, l.waits("e"), len(preempted))
	}
	l.release("a")
	mu.Lock()
	told := woken["c"] && woken["e"]
	mu.Unlock()
	if !told || l.waits("c") || l.waits("e") {
		t.Errorf("with the room: woken %v, waits %v %v", told, l.waits("c"), l.waits("e"))
	}
	if reason, message := l.admit(critical(sizedPod("f", "2"))); reason != "UnexpectedAdmissionError" || !strings.HasSuffix(message, "[(res: cpu, q: 1500), ]") {
		t.Errorf("more than there can be: %s %s", reason, message)
	}
	picky := critical(sizedPod("g", "1"))
	picky.Spec.NodeSelector = map[string]string{"no": "such"}
	if reason, _ := l.admit(picky); reason != "NodeAffinity" || len(preempted) > 0 {
		t.Errorf("one that does not belong here: %s, %d preempted", reason, len(preempted))
	}
}

// TestACriticalPodStartsOnceAnotherHasGone goes all the way.
func TestACriticalPodStartsOnceAnotherHasGone(t *testing.T) {
	b := newBench(t)
	b.node = sizedNode("1")
	create := func(pod *v1.Pod) {
		t.Helper()
		if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create(sizedPod("p", "800m"))
	b.start()
	b.watching()
	b.until("ready", ready)
	create(critical(sizedPod("c", "500m")))
	b.until("preempted", func(p *v1.Pod) bool {
		c := condition(&p.Status, v1.DisruptionTarget)
		return p.Status.Phase == v1.PodFailed && p.Status.Reason == preemptReason && p.Status.Message == preemptMessage &&
			c != nil && c.Reason == v1.PodReasonTerminationByKubelet && c.Message == preemptExcuse
	})
	b.untilPod("c", "ready", ready)
	b.stop()
}

func TestAdmitOrder(t *testing.T) {
	node := sizedNode("1")
	pod := sizedPod("p", "2")
	pod.Spec.NodeSelector = map[string]string{"no": "such"}
	check := func(what, want string) {
		t.Helper()
		if reason, message := Admit(node, nil, pod); reason != want {
			t.Errorf("%s: got %s %s, want %s", what, reason, message, want)
		}
	}
	check("room first", "OutOfcpu")
	pod.Spec.Containers[0].Resources = size("1", "64Mi")
	check("then affinity", "NodeAffinity")
	pod.Labels = map[string]string{v1.LabelOSStable: "windows"}
	check("labels before all", "PodOSSelectorNodeLabelDoesNotMatch")
	pod.Labels, pod.Spec.NodeSelector = nil, nil
	strict := v1.SupplementalGroupsPolicyStrict
	pod.Spec.SecurityContext = &v1.PodSecurityContext{SupplementalGroupsPolicy: &strict}
	check("a runtime that cannot", "SupplementalGroupsPolicyNotSupported")
	yes := true
	node.Status.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: &yes}
	pod.Spec.Containers[0].Resources.Requests["example.com/claimed"] = resource.MustParse("1")
	check("what the node does not know", "")
	pod.Spec.Containers[0].Resources.Requests["deviceclass.resource.kubernetes.io/gpu"] = resource.MustParse("1")
	check("devices that nobody claimed for the pod", "OutOfdeviceclass.resource.kubernetes.io/gpu")
	pod.Status.ExtendedResourceClaimStatus = &v1.PodExtendedResourceClaimStatus{ResourceClaimName: "made", RequestMappings: []v1.ContainerExtendedResourceRequest{
		{ContainerName: pod.Spec.Containers[0].Name, ResourceName: "deviceclass.resource.kubernetes.io/gpu", RequestName: "r"}}}
	check("devices of a claim", "")
	other := sizedPod("other", "0")
	pod.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80, HostIP: "10.0.0.1"}}
	other.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80, HostIP: "10.0.0.2"}}
	if reason, _ := Admit(node, []*v1.Pod{other}, pod); reason != "" {
		t.Errorf("one port of two addresses: %s", reason)
	}
	other.Spec.Containers[0].Ports[0].HostIP = "0.0.0.0"
	if reason, _ := Admit(node, []*v1.Pod{other}, pod); reason != "NodePorts" {
		t.Errorf("a port of all addresses: %q", reason)
	}
}
