package plugins

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/dynamic-resource-allocation/structured/schedulerapi"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

func deviceSlice(node string, devices int) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: node, UID: types.UID("slice-" + node)},
		Spec:       resourcev1.ResourceSliceSpec{Driver: "d.example.com", NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1}},
	}
	for i := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprintf("dev-%d", i)})
	}
	return s
}

func devicePod(name string, claims ...string) *picture.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("pod-" + name)}}
	for _, c := range claims {
		pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, v1.PodResourceClaim{Name: c, ResourceClaimName: ptr.To(c)})
	}
	return picture.NewPod(pod)
}

func claimOfDevices(name string, count int64) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count},
		}}}},
	}
}

// deviceCluster has nodes a (1 device), b (3) and c (none), and a class.
func deviceCluster(claims ...*resourcev1.ResourceClaim) *picture.Picture {
	cluster := picture.New()
	for node, devices := range map[string]int{"a": 1, "b": 3, "c": 0} {
		cluster.SetNode(testNode(node, ""))
		if devices > 0 {
			cluster.Devices().SetSlice(deviceSlice(node, devices))
		}
	}
	cluster.Devices().SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
	for _, c := range claims {
		cluster.Devices().SetClaim(c)
	}
	return cluster
}

// verdicts says for each node why it does not fit; a pod without a filter fits.
func deviceVerdicts(p *DynamicResources, pod *picture.Pod, cluster *picture.Picture) map[string]string {
	verdicts := map[string]string{}
	filter := p.PreFilter(pod, cluster)
	for _, n := range cluster.Nodes() {
		if filter == nil {
			verdicts[n.Name()] = ""
		} else if refusal := filter(n); refusal != nil {
			verdicts[n.Name()] = strings.Join(refusal.Reasons, ", ")
		} else {
			verdicts[n.Name()] = ""
		}
	}
	return verdicts
}

func on(node string) *resourcev1.AllocationResult {
	return &resourcev1.AllocationResult{NodeSelector: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchFields: []v1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: v1.NodeSelectorOpIn, Values: []string{node}}}}}}}
}

func TestDevicesDecideWhereAPodFits(t *testing.T) {
	allocated := claimOfDevices("allocated", 1)
	allocated.Status.Allocation = on("c")
	deleted := claimOfDevices("deleted", 1)
	deleted.DeletionTimestamp = ptr.To(metav1.Now())
	classless := claimOfDevices("classless", 1)
	classless.Spec.Devices.Requests[0].Exactly.DeviceClassName = "none"
	broken := claimOfDevices("broken", 1)
	broken.Spec.Devices.Requests[0].Exactly.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: "device.attributes['x'].y"}}}
	for claim, want := range map[string]string{
		"one": "a: b: c:cannot allocate all claims", "two": "a:cannot allocate all claims b: c:cannot allocate all claims",
		"four":      "a:cannot allocate all claims b:cannot allocate all claims c:cannot allocate all claims",
		"allocated": "a:resourceclaim not available on the node b:resourceclaim not available on the node c:",
		"missing":   "*resourceclaim.resource.k8s.io \"missing\" not found",
		"deleted":   "*resourceclaim \"deleted\" is being deleted",
		"classless": "*request r: device class none does not exist",
		"broken":    "*CEL", "": "a: b: c:",
	} {
		t.Run(claim, func(t *testing.T) {
			p := NewDynamicResources(nil)
			cluster := deviceCluster(claimOfDevices("one", 1), claimOfDevices("two", 2), claimOfDevices("four", 4), allocated, deleted, classless, broken)
			pod := devicePod("p", claim)
			if claim == "" {
				pod = devicePod("p")
			}
			got := deviceVerdicts(p, pod, cluster)
			text := fmt.Sprintf("a:%s b:%s c:%s", got["a"], got["b"], got["c"])
			if reason, whole := strings.CutPrefix(want, "*"); whole {
				if !strings.Contains(got["b"], reason) {
					t.Errorf("got %s, want %s", text, reason)
				}
			} else if text != want {
				t.Errorf("got %s, want %s", text, want)
			}
		})
	}
}

func TestTaintedDevicesNeedATolerationToBeTaken(t *testing.T) {
	for effect, kept := range map[resourcev1.DeviceTaintEffect]bool{
		resourcev1.DeviceTaintEffectNoSchedule: false, resourcev1.DeviceTaintEffectNoExecute: false, resourcev1.DeviceTaintEffectNone: true,
	} {
		for toleration, tolerated := range map[resourcev1.DeviceToleration]bool{
			{}: false,
			{Key: "k", Operator: resourcev1.DeviceTolerationOpEqual, Value: "v", Effect: effect}:     true,
			{Key: "k", Operator: resourcev1.DeviceTolerationOpEqual, Value: "other", Effect: effect}: false,
			{Key: "other", Operator: resourcev1.DeviceTolerationOpExists}:                            false,
			{Operator: resourcev1.DeviceTolerationOpExists}:                                          true,
		} {
			claim := claimOfDevices("one", 1)
			if toleration.Operator != "" {
				claim.Spec.Devices.Requests[0].Exactly.Tolerations = []resourcev1.DeviceToleration{toleration}
			}
			cluster := deviceCluster(claim)
			slice := deviceSlice("a", 1)
			slice.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "k", Value: "v", Effect: effect}}
			cluster.Devices().SetSlice(slice)
			got := deviceVerdicts(NewDynamicResources(nil), devicePod("p", "one"), cluster)
			if fits := got["a"] == ""; fits != (kept || tolerated) || got["b"] != "" {
				t.Errorf("taint %s, toleration %+v: a %q, b %q", effect, toleration, got["a"], got["b"])
			}
		}
	}
}

func TestReservedDevicesAreTaken(t *testing.T) {
	one, other := claimOfDevices("one", 1), claimOfDevices("other", 1)
	cluster, p := deviceCluster(one, other), NewDynamicResources(nil)
	first, second := devicePod("first", "one"), devicePod("second", "other")
	if err := p.Reserve(first, cluster, cluster.Node("a")); err != nil {
		t.Fatal(err)
	}
	if !p.Needed(first.Object) || p.Needed(second.Object) {
		t.Error("who has to wait for claims to be written?")
	}
	if got := deviceVerdicts(p, second, cluster)["a"]; got != "cannot allocate all claims" {
		t.Errorf("a's only device: %q", got)
	}
	if got := deviceVerdicts(p, devicePod("third", "one"), cluster)["b"]; got != "resource claim ns/one is in the process of being allocated" {
		t.Errorf("a claim that is being allocated: %q", got)
	}
	if err := p.Reserve(second, cluster, cluster.Node("a")); err == nil {
		t.Error("reserved a device twice")
	}
	p.Unreserve(first.Object, cluster, "a")
	if got := deviceVerdicts(p, second, cluster)["a"]; got != "" || p.Needed(first.Object) {
		t.Errorf("a's device, given back: %q", got)
	}
}

func TestClaimsAreWritten(t *testing.T) {
	one := claimOfDevices("one", 2)
	client := fake.NewClientset(one)
	cluster, p, pod := deviceCluster(one), NewDynamicResources(client), devicePod("p", "one")
	if err := p.Reserve(pod, cluster, cluster.Node("b")); err != nil {
		t.Fatal(err)
	}
	if err := p.PreBind(t.Context(), pod.Object, "b"); err != nil {
		t.Fatal(err)
	}
	got, err := client.ResourceV1().ResourceClaims("ns").Get(t.Context(), "one", metav1.GetOptions{})
	if err != nil || len(got.Status.Allocation.Devices.Results) != 2 || len(got.Finalizers) != 1 || len(got.Status.ReservedFor) != 1 || got.Status.ReservedFor[0].UID != pod.Object.UID {
		t.Fatalf("wrote %+v, %v", got, err)
	}
	if cluster.Devices().Pending(one.UID) == nil {
		t.Error("devices are free before the API shows them taken")
	}
	cluster.Devices().SetClaim(got)
	if cluster.Devices().Pending(one.UID) != nil || len(cluster.Devices().Taken().AllocatedDevices) != 2 {
		t.Errorf("taken: %v", cluster.Devices().Taken().AllocatedDevices)
	}
	freed := got.DeepCopy()
	freed.Status = resourcev1.ResourceClaimStatus{}
	cluster.Devices().SetClaim(freed)
	if n := len(cluster.Devices().Taken().AllocatedDevices); n != 0 {
		t.Errorf("%d devices taken by nobody", n)
	}
}

func TestClaimAllocatedElsewhereIsNotOverwritten(t *testing.T) {
	one := claimOfDevices("one", 1)
	there := one.DeepCopy()
	there.Status.Allocation = on("c")
	client := fake.NewClientset(there)
	cluster, p, pod := deviceCluster(one), NewDynamicResources(client), devicePod("p", "one")
	if err := p.Reserve(pod, cluster, cluster.Node("b")); err != nil {
		t.Fatal(err)
	}
	r := p.reserved[pod.Object.UID][0]
	r.claim = there
	if _, err := p.write(t.Context(), pod.Object, r); err == nil || !strings.Contains(err.Error(), "got allocated elsewhere in the meantime") {
		t.Errorf("wrote over another's: %v", err)
	}
}

func TestClaimThatLeadsNowhereIsFreed(t *testing.T) {
	stuck := claimOfDevices("stuck", 1)
	stuck.Status.Allocation = on("gone")
	stuck.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "pod-p"}}
	shared := stuck.DeepCopy()
	shared.Name, shared.UID = "shared", "uid-shared"
	shared.Status.ReservedFor = append(shared.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "q", UID: "q"})
	client := fake.NewClientset(stuck, shared)
	cluster, p := deviceCluster(stuck, shared), NewDynamicResources(client)
	if remedy := p.PostFilter(nil, devicePod("p", "shared"), cluster, &framework.Refusals{}); remedy.Act != nil {
		t.Error("frees a claim that another pod uses")
	}
	remedy := p.PostFilter(nil, devicePod("p", "stuck"), cluster, &framework.Refusals{})
	if remedy.Act == nil {
		t.Fatal("does nothing")
	}
	if err := remedy.Act(t.Context(), framework.Hands{}); err != nil {
		t.Fatal(err)
	}
	got, err := client.ResourceV1().ResourceClaims("ns").Get(t.Context(), "stuck", metav1.GetOptions{})
	if err != nil || got.Status.Allocation != nil || got.Status.ReservedFor != nil {
		t.Errorf("left %+v, %v", got.Status, err)
	}
}

func TestDevicesThatHaveToBecomeReady(t *testing.T) {
	claim := claimOfDevices("c", 1)
	claim.Status.Allocation = &resourcev1.AllocationResult{AllocationTimestamp: ptr.To(metav1.Now()), Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Driver: "d", Pool: "p", Device: "x", BindingConditions: []string{"attached"}, BindingFailureConditions: []string{"failed"}},
	}}}
	says := func(kind string) {
		claim.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "x", Conditions: []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "Because"}}}}
	}
	if ready, err := devicesReady(claim); ready || err != nil || bindingExpired(claim) {
		t.Errorf("ready without a word of the driver: %v, %v", ready, err)
	}
	says("attached")
	if ready, err := devicesReady(claim); !ready || err != nil {
		t.Errorf("attached: %v, %v", ready, err)
	}
	says("failed")
	if _, err := devicesReady(claim); err == nil || !strings.Contains(err.Error(), "reason=Because") {
		t.Errorf("failed: %v", err)
	}
	claim.Status.Devices = nil
	claim.Status.Allocation.AllocationTimestamp = ptr.To(metav1.NewTime(time.Now().Add(-time.Hour)))
	if !bindingExpired(claim) {
		t.Error("waits for ever")
	}
}

func TestClaimHelpsItsPods(t *testing.T) {
	p, pod := NewDynamicResources(nil), devicePod("p", "mine").Object
	for name, helps := range map[string]bool{"mine": true, "other": false} {
		if got := p.Helps(framework.Event{Kind: framework.DeviceClaimChanged, DeviceClaim: claimOfDevices(name, 1)}, pod); got != helps {
			t.Errorf("%s helps: %v", name, got)
		}
	}
	if !p.Helps(framework.Event{Kind: framework.DevicesFreed}, pod) {
		t.Error("devices that another freed do not help")
	}
}

// However pods reserve, write and give back, no device is in two claims.
func TestNoDeviceIsGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster, p := deviceCluster(), NewDynamicResources(nil)
		claims := map[string]*resourcev1.ResourceClaim{}
		pods := map[string]*picture.Pod{}
		for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"pod", "written", "given back", "freed"}).Draw(t, "step") {
			case "pod":
				name := fmt.Sprint("c", i)
				claims[name], pods[name] = claimOfDevices(name, int64(rapid.IntRange(1, 2).Draw(t, "count"))), devicePod(name, name)
				cluster.Devices().SetClaim(claims[name])
				for _, n := range cluster.Nodes() {
					if p.Reserve(pods[name], cluster, n) == nil {
						break
					}
				}
			case "written":
				for name, claim := range claims {
					if pending := cluster.Devices().Pending(claim.UID); pending != nil {
						claim = claim.DeepCopy()
						claim.Status.Allocation = pending.Result
						cluster.Devices().SetClaim(claim)
						claims[name] = claim
						break
					}
				}
			case "given back":
				for _, pod := range pods {
					p.Unreserve(pod.Object, cluster, "")
					break
				}
			case "freed":
				for name, claim := range claims {
					cluster.Devices().RemoveClaim(claim)
					delete(claims, name)
					break
				}
			}
			used := map[schedulerapi.DeviceID]string{}
			for name, claim := range claims {
				result := claim.Status.Allocation
				if pending := cluster.Devices().Pending(claim.UID); pending != nil {
					result = pending.Result
				}
				if result == nil {
					continue
				}
				for _, r := range result.Devices.Results {
					id := schedulerapi.MakeDeviceID(r.Driver, r.Pool, r.Device)
					if other := used[id]; other != "" {
						t.Fatalf("claims %s and %s have %s", name, other, id)
					}
					used[id] = name
					if !cluster.Devices().Taken().AllocatedDevices.Has(id) {
						t.Fatalf("%s of claim %s counts as free", id, name)
					}
				}
			}
			if n := len(cluster.Devices().Taken().AllocatedDevices); n != len(used) {
				t.Fatalf("%d devices are used, %d count as taken", len(used), n)
			}
		}
	})
}
