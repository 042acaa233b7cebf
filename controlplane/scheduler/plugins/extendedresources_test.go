package plugins

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// container is one that asks for resources: "gpu=2 nic=1"; i: an init container, s:
// a sidecar.
func extendedPod(containers ...string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "pod-p"}}
	for i, text := range containers {
		kind, asks, _ := strings.Cut(text, ":")
		c := v1.Container{Name: fmt.Sprint(kind, i), Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}}}
		for _, ask := range strings.Fields(asks) {
			name, amount, _ := strings.Cut(ask, "=")
			c.Resources.Requests[v1.ResourceName(name)] = resource.MustParse(amount)
		}
		switch kind {
		case "s":
			c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
			fallthrough
		case "i":
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		default:
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
	}
	return pod
}

func TestExtendedResourcesAsRequests(t *testing.T) {
	const byClass = v1.ResourceName(resourcev1.ResourceDeviceClassPrefix + "gpu")
	classes := map[v1.ResourceName]string{"e/gpu": "gpu", "e/nic": "nic", byClass: "gpu"}
	for _, c := range []struct {
		name       string
		containers []string
		requests   string // name=class*count
		mappings   string // container/resource>request
	}{
		{"one of two that a container asks for is devices", []string{"c:cpu=1 e/gpu=2"}, "container-0-request-1=gpu*2", "c0/e/gpu>container-0-request-1"},
		{"two resources", []string{"c:e/nic=1 e/gpu=2"}, "container-0-request-0=gpu*2 container-0-request-1=nic*1",
			"c0/e/gpu>container-0-request-0 c0/e/nic>container-0-request-1"},
		{"by the class's name, too", []string{"c:e/gpu=1 deviceclass.resource.kubernetes.io/gpu=2"}, "container-0-request-0=gpu*2 container-0-request-1=gpu*1",
			"c0/deviceclass.resource.kubernetes.io/gpu>container-0-request-0 c0/e/gpu>container-0-request-1"},
		{"two containers", []string{"c:e/gpu=1", "c:e/gpu=2"}, "container-0-request-0=gpu*1 container-1-request-0=gpu*2",
			"c0/e/gpu>container-0-request-0 c1/e/gpu>container-1-request-0"},
		{"none asked", []string{"c:e/gpu=0", "c:cpu=2"}, "", ""},
		{"init containers share the most that one needs", []string{"i:e/nic=1", "i:e/nic=3", "i:e/nic=2", "c:e/gpu=1"},
			"container-1-request-0=nic*3 container-3-request-0=gpu*1",
			"c3/e/gpu>container-3-request-0 i0/e/nic>container-1-request-0 i1/e/nic>container-1-request-0 i2/e/nic>container-1-request-0"},
		{"an init container has what later ones will have", []string{"i:e/gpu=2", "c:e/gpu=1", "c:e/gpu=1", "c:e/gpu=1"},
			"container-1-request-0=gpu*1 container-2-request-0=gpu*1 container-3-request-0=gpu*1",
			"c1/e/gpu>container-1-request-0 c2/e/gpu>container-2-request-0 c3/e/gpu>container-3-request-0 i0/e/gpu>container-1-request-0 i0/e/gpu>container-2-request-0"},
		{"and more where that is not enough", []string{"i:e/gpu=3", "c:e/gpu=1"}, "container-0-request-0=gpu*2 container-1-request-0=gpu*1",
			"c1/e/gpu>container-1-request-0 i0/e/gpu>container-0-request-0 i0/e/gpu>container-1-request-0"},
		{"a sidecar keeps its own from those after it", []string{"i:e/gpu=1", "s:e/gpu=1", "i:e/gpu=2", "c:e/nic=1"},
			"container-1-request-0=gpu*1 container-2-request-0=gpu*2 container-3-request-0=nic*1",
			"c3/e/nic>container-3-request-0 i0/e/gpu>container-1-request-0 i2/e/gpu>container-2-request-0 s1/e/gpu>container-1-request-0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newExtended(extendedPod(c.containers...), []v1.ResourceName{byClass, "e/gpu", "e/nic"},
				func(name v1.ResourceName) *resourcev1.DeviceClass {
					return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: classes[name]}}
				})
			var requests, mappings []string
			for _, r := range e.requests {
				requests = append(requests, fmt.Sprintf("%s=%s*%d", r.Name, r.Exactly.DeviceClassName, r.Exactly.Count))
			}
			for _, m := range e.mappings {
				mappings = append(mappings, m.ContainerName+"/"+m.ResourceName+">"+m.RequestName)
			}
			slices.Sort(mappings)
			if got := strings.Join(requests, " "); got != c.requests {
				t.Errorf("requests %s, want %s", got, c.requests)
			}
			if got := strings.Join(mappings, " "); got != c.mappings {
				t.Errorf("mappings %s, want %s", got, c.mappings)
			}
		})
	}
}

// Whatever containers ask for, each is served by as many devices, those that run
// together never by the same, and the claim asks for no more than what the node
// would have to hold for the pod.
func TestEveryContainerIsServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var texts []string
		for range rapid.IntRange(0, 4).Draw(t, "init containers") {
			texts = append(texts, fmt.Sprintf("%s:e/gpu=%d", rapid.SampledFrom([]string{"i", "s"}).Draw(t, "kind"), rapid.IntRange(0, 4).Draw(t, "asks")))
		}
		for range rapid.IntRange(1, 3).Draw(t, "containers") {
			texts = append(texts, fmt.Sprintf("c:e/gpu=%d", rapid.IntRange(0, 4).Draw(t, "asks")))
		}
		pod := extendedPod(texts...)
		e := newExtended(pod, []v1.ResourceName{"e/gpu"}, func(v1.ResourceName) *resourcev1.DeviceClass {
			return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}
		})
		counts, sum := map[string]int64{}, int64(0)
		for _, r := range e.requests {
			counts[r.Name] = r.Exactly.Count
			sum += r.Exactly.Count
		}
		lasting := map[string]string{} // container by request
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			quantity, served := c.Resources.Requests["e/gpu"], int64(0)
			for _, m := range e.mappings {
				if m.ContainerName != c.Name {
					continue
				}
				served += counts[m.RequestName]
				if c.Name[0] != 'i' {
					if other := lasting[m.RequestName]; other != "" {
						t.Fatalf("%s and %s have %s", other, c.Name, m.RequestName)
					}
					lasting[m.RequestName] = c.Name
				}
			}
			if served < quantity.Value() {
				t.Fatalf("%s is served by %d of %d: %+v", c.Name, served, quantity.Value(), e)
			}
		}
		if want := picture.NewPod(pod).Requests.Other["e/gpu"]; sum < want {
			t.Fatalf("asks for %d devices, the pod takes %d", sum, want)
		}
	})
}

// extendedCluster is deviceCluster with the class being e/gpu, and a node d whose
// device plugin has some.
func extendedCluster() *picture.Picture {
	cluster := deviceCluster()
	cluster.Devices().SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("e/gpu")}})
	for _, name := range []string{"a", "b", "c", "d"} {
		n := testNode(name, "")
		n.Status.Allocatable = v1.ResourceList{v1.ResourcePods: resource.MustParse("10")}
		if name == "d" {
			n.Status.Allocatable["e/gpu"] = resource.MustParse("2")
		}
		cluster.SetNode(n)
	}
	return cluster
}

func TestExtendedResourcesDecideWhereAPodFits(t *testing.T) {
	for asks, want := range map[string]string{
		"e/gpu=1": "a: b: c:cannot allocate all claims d:", "e/gpu=2": "a:cannot allocate all claims b: c:cannot allocate all claims d:",
		"e/gpu=3":                                "a:cannot allocate all claims b: c:cannot allocate all claims d:Insufficient e/gpu",
		"deviceclass.resource.kubernetes.io/c=1": "a: b: c:cannot allocate all claims d:cannot allocate all claims",
		"e/nic=1":                                "a:Insufficient e/nic b:Insufficient e/nic c:Insufficient e/nic d:Insufficient e/nic", "e/nic=0": "a: b: c: d:",
	} {
		cluster, pod := extendedCluster(), picture.NewPod(extendedPod("c:"+asks))
		p := NewDynamicResources(nil)
		got := deviceVerdicts(p, pod, cluster)
		for _, n := range cluster.Nodes() {
			if refusal := (NodeResourcesFit{}).PreFilter(pod, cluster)(n); refusal != nil {
				got[n.Name()] = strings.Join(refusal.Reasons, ", ")
			}
		}
		if text := fmt.Sprintf("a:%s b:%s c:%s d:%s", got["a"], got["b"], got["c"], got["d"]); text != want {
			t.Errorf("%s: got %s, want %s", asks, text, want)
		}
	}
}

// withNames gives claims that are created a name and a UID, as the API does.
func withNames(client *fake.Clientset) *fake.Clientset {
	client.PrependReactor("create", "resourceclaims", func(action kubetesting.Action) (bool, runtime.Object, error) {
		claim := action.(kubetesting.CreateAction).GetObject().(*resourcev1.ResourceClaim)
		claim.Name, claim.UID, claim.ResourceVersion = claim.GenerateName+"x", types.UID("uid-"+claim.GenerateName), "1"
		return false, nil, nil
	})
	return client
}

func TestClaimForExtendedResourcesIsMade(t *testing.T) {
	object := extendedPod("c:e/gpu=2")
	client := withNames(fake.NewClientset(object))
	cluster, p, pod := extendedCluster(), NewDynamicResources(client), picture.NewPod(object)
	if err := p.Reserve(pod, cluster, cluster.Node("b")); err != nil {
		t.Fatal(err)
	}
	if !p.Needed(object) || len(cluster.Devices().Taken().AllocatedDevices) != 2 {
		t.Fatalf("taken: %v", cluster.Devices().Taken().AllocatedDevices)
	}
	if got := deviceVerdicts(p, pod, cluster)["b"]; got != "resource claim for extended resources is in the process of being allocated" {
		t.Errorf("again: %q", got)
	}
	if err := p.PreBind(t.Context(), object, "b"); err != nil {
		t.Fatal(err)
	}
	claim, err := client.ResourceV1().ResourceClaims("ns").Get(t.Context(), "p-extended-resources-x", metav1.GetOptions{})
	if err != nil || len(claim.Status.Allocation.Devices.Results) != 2 || len(claim.Finalizers) != 1 || len(claim.Status.ReservedFor) != 1 ||
		claim.Annotations["resource.kubernetes.io/extended-resource-claim"] != "true" || !metav1.IsControlledBy(claim, object) {
		t.Fatalf("made %+v, %v", claim, err)
	}
	told, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	want := v1.ContainerExtendedResourceRequest{ContainerName: "c0", ResourceName: "e/gpu", RequestName: "container-0-request-0"}
	if err != nil || told.Status.ExtendedResourceClaimStatus == nil || told.Status.ExtendedResourceClaimStatus.ResourceClaimName != claim.Name ||
		!slices.Equal(told.Status.ExtendedResourceClaimStatus.RequestMappings, []v1.ContainerExtendedResourceRequest{want}) {
		t.Fatalf("told %+v, %v", told.Status, err)
	}
	created := claim.DeepCopy()
	created.Status = resourcev1.ResourceClaimStatus{}
	created.ResourceVersion = "0"
	cluster.Devices().SetClaim(created) // as it was before it had devices
	if cluster.Devices().Pending(object.UID) == nil || len(cluster.Devices().Taken().AllocatedDevices) != 2 {
		t.Error("devices are free before the API shows them taken")
	}
	cluster.Devices().SetClaim(claim)
	if cluster.Devices().Pending(object.UID) != nil || len(cluster.Devices().Taken().AllocatedDevices) != 2 {
		t.Errorf("taken: %v", cluster.Devices().Taken().AllocatedDevices)
	}
	// Had the pod not been bound, the claim would be for another node than the next.
	for node, verdict := range deviceVerdicts(p, pod, cluster) {
		if verdict != "cannot schedule extended resource claim" {
			t.Errorf("node %s: %q", node, verdict)
		}
	}
	remedy := p.PostFilter(nil, pod, cluster, &framework.Refusals{})
	if remedy.Act == nil || remedy.Message != "deletion of ResourceClaim completed" {
		t.Fatalf("remedy %+v", remedy)
	}
	if err := remedy.Act(t.Context(), framework.Hands{}); err != nil {
		t.Fatal(err)
	}
	left, err := client.ResourceV1().ResourceClaims("ns").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("left %+v, %v", left.Items, err)
	}
	cluster.Devices().RemoveClaim(claim)
	if got := deviceVerdicts(p, pod, cluster); got["b"] != "" || len(cluster.Devices().Taken().AllocatedDevices) != 0 {
		t.Errorf("afterwards: %v", got)
	}
}

// A claim that was made in vain goes at once, and what it was to have is free.
func TestClaimForExtendedResourcesDoesNotOutliveAFailure(t *testing.T) {
	object := extendedPod("c:e/gpu=2")
	client := withNames(fake.NewClientset(object))
	client.PrependReactor("patch", "pods", func(kubetesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no") })
	cluster, p, pod := extendedCluster(), NewDynamicResources(client), picture.NewPod(object)
	if err := p.Reserve(pod, cluster, cluster.Node("b")); err != nil {
		t.Fatal(err)
	}
	if err := p.PreBind(t.Context(), object, "b"); err == nil {
		t.Fatal("bound a pod that was not told of its claim")
	}
	p.Unreserve(object, cluster, "b")
	left, err := client.ResourceV1().ResourceClaims("ns").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 0 || len(cluster.Devices().Taken().AllocatedDevices) != 0 {
		t.Errorf("left %+v, %v; taken: %v", left.Items, err, cluster.Devices().Taken().AllocatedDevices)
	}
	if got := deviceVerdicts(p, pod, cluster)["b"]; got != "" {
		t.Errorf("afterwards: %s", got)
	}
}

// News of a claim of an attempt before say nothing about the devices of this one.
func TestLateNewsOfAnotherClaimFreeNothing(t *testing.T) {
	object := extendedPod("c:e/gpu=1")
	cluster, p := extendedCluster(), NewDynamicResources(nil)
	if err := p.Reserve(picture.NewPod(object), cluster, cluster.Node("a")); err != nil {
		t.Fatal(err)
	}
	late := (&extended{}).claim(object)
	late.Name, late.UID, late.Status.Allocation = "late", "late", cluster.Devices().Pending(object.UID).Result.DeepCopy()
	cluster.Devices().SetClaim(late)
	cluster.Devices().RemoveClaim(late)
	if cluster.Devices().Pending(object.UID) == nil || len(cluster.Devices().Taken().AllocatedDevices) != 1 {
		t.Errorf("taken: %v", cluster.Devices().Taken().AllocatedDevices)
	}
}

func TestWhatHelpsPodsWithExtendedResources(t *testing.T) {
	pod := extendedPod("c:e/gpu=1 deviceclass.resource.kubernetes.io/mine=1")
	class := func(name, resource string) framework.Event {
		return framework.Event{Kind: framework.ResourceBacked, DeviceClass: &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: &resource}}}
	}
	bare := testNode("n", "")
	bare.Status.Allocatable = v1.ResourceList{v1.ResourcePods: resource.MustParse("10")}
	node := framework.Event{Kind: framework.NodeAdded, Node: bare, ClassOf: extendedCluster().Devices().ClassOf}
	for _, c := range []struct {
		name  string
		event framework.Event
		pod   *v1.Pod
		helps bool
	}{
		{"class of the resource", class("other", "e/gpu"), pod, true},
		{"class by its name", class("mine", "e/other"), pod, true},
		{"another class", class("other", "e/other"), pod, false},
		{"node without the resource, which may be a device there", node, extendedPod("c:e/gpu=1"), true},
		{"node without the resource", node, extendedPod("c:e/nic=1"), false},
	} {
		if got := (NodeResourcesFit{}).Helps(c.event, c.pod); got != c.helps {
			t.Errorf("%s helps: %v", c.name, got)
		}
	}
}

// The node that has what a claim would rather have scores highest.
func TestPreferredAlternativesScore(t *testing.T) {
	claim := claimOfDevices("c", 1)
	claim.Spec.Devices.Requests[0] = resourcev1.DeviceRequest{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{
		{Name: "three", DeviceClassName: "c", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3},
		{Name: "one", DeviceClassName: "c", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
	}}
	cluster, p, pod := deviceCluster(claim), NewDynamicResources(nil), devicePod("p", "c")
	deviceVerdicts(p, pod, cluster)
	score := p.PreScore(pod, cluster, nil)
	if score == nil {
		t.Fatal("no score")
	}
	scores := []int64{score(cluster.Node("a")), score(cluster.Node("b"))}
	if !slices.Equal(scores, []int64{7, 8}) {
		t.Errorf("scores of a and b: %v", scores)
	}
	if p.Normalize(scores); !slices.Equal(scores, []int64{87, 100}) {
		t.Errorf("normalized: %v", scores)
	}
	if plain := devicePod("q"); p.PreFilter(plain, cluster) != nil || p.PreScore(plain, cluster, nil) != nil {
		t.Error("rates nodes for a pod without claims")
	}
}
