package devicetainteviction

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
)

var added = time.Unix(1e9, 0)

func taint(key string, effect resourcev1.DeviceTaintEffect) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: key, Effect: effect, TimeAdded: ptr.To(metav1.NewTime(added))}
}

func execute(key string) resourcev1.DeviceTaint {
	return taint(key, resourcev1.DeviceTaintEffectNoExecute)
}

// tolerate makes a toleration without limit for negative seconds.
func tolerate(key string, effect resourcev1.DeviceTaintEffect, seconds int64) resourcev1.DeviceToleration {
	t := resourcev1.DeviceToleration{Key: key, Operator: resourcev1.DeviceTolerationOpExists, Effect: effect}
	if seconds >= 0 {
		t.TolerationSeconds = &seconds
	}
	return t
}

func slice(name string, generation int64, taints ...resourcev1.DeviceTaint) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "driver", Pool: resourcev1.ResourcePool{Name: "pool", Generation: generation},
			Devices: []resourcev1.Device{{Name: "spare", Taints: []resourcev1.DeviceTaint{execute("of-another-device")}}, {Name: "device", Taints: taints}},
		},
	}
}

// claim has the device, and is reserved for pods whose UIDs are their names.
func claim(name string, tolerations []resourcev1.DeviceToleration, pods ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{
		Request: "r", Driver: "driver", Pool: "pool", Device: "device", Tolerations: tolerations,
	}}}}
	for _, pod := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod, UID: types.UID(pod)})
	}
	return c
}

func pod(name, claim string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec: corev1.PodSpec{NodeName: "node", ResourceClaims: []corev1.PodResourceClaim{
			{Name: "none-made-yet", ResourceClaimTemplateName: ptr.To("t")}, {Name: "device", ResourceClaimName: &claim},
		}},
	}
}

func TestDeadline(t *testing.T) {
	const every = resourcev1.DeviceTaintEffect("")
	no := resourcev1.DeviceTaintEffectNoExecute
	never := time.Time{}
	type tolerations = []resourcev1.DeviceToleration
	type pooled = []*resourcev1.ResourceSlice
	for name, test := range map[string]struct {
		slices      pooled
		tolerations tolerations
		at          time.Time
		evict       bool
	}{
		"no slice":               {nil, nil, never, false},
		"no taint":               {pooled{slice("s", 1)}, nil, never, false},
		"not tolerated":          {pooled{slice("s", 1, execute("a"))}, nil, added, true},
		"another effect":         {pooled{slice("s", 1, taint("a", resourcev1.DeviceTaintEffectNoSchedule), taint("b", resourcev1.DeviceTaintEffectNone))}, nil, never, false},
		"for ever":               {pooled{slice("s", 1, execute("a"))}, tolerations{tolerate("a", no, -1)}, never, false},
		"for a while":            {pooled{slice("s", 1, execute("a"))}, tolerations{tolerate("a", no, 60)}, added.Add(time.Minute), true},
		"the shortest":           {pooled{slice("s", 1, execute("a"))}, tolerations{tolerate("a", no, 60), tolerate("a", no, 30)}, added.Add(30 * time.Second), true},
		"one has no limit":       {pooled{slice("s", 1, execute("a"))}, tolerations{tolerate("a", no, 60), tolerate("a", no, -1)}, never, false},
		"of any effect":          {pooled{slice("s", 1, execute("a"))}, tolerations{tolerate("a", every, -1)}, added, true},
		"of another effect":      {pooled{slice("s", 1, execute("a"))}, tolerations{tolerate("a", resourcev1.DeviceTaintEffectNoSchedule, -1)}, added, true},
		"of another key":         {pooled{slice("s", 1, execute("a"))}, tolerations{tolerate("b", no, -1)}, added, true},
		"of all keys":            {pooled{slice("s", 1, execute("a"), execute("b"))}, tolerations{tolerate("", no, -1)}, never, false},
		"one of two":             {pooled{slice("s", 1, execute("a"), execute("b"))}, tolerations{tolerate("a", no, -1), tolerate("b", no, 5)}, added.Add(5 * time.Second), true},
		"less than nothing":      {pooled{slice("s", 1, execute("a"))}, tolerations{{Operator: resourcev1.DeviceTolerationOpExists, Effect: no, TolerationSeconds: ptr.To[int64](-5)}}, added, true},
		"an old generation's":    {pooled{slice("s", 1, execute("a")), slice("t", 2)}, nil, never, false},
		"the new generation's":   {pooled{slice("s", 1), slice("t", 2, execute("a"))}, nil, added, true},
		"generations below zero": {pooled{slice("s", -1, execute("a"))}, nil, added, true},
	} {
		t.Run(name, func(t *testing.T) {
			at, evict := deadline(claim("c", test.tolerations), func(p pool) pooled {
				if p != (pool{"driver", "pool"}) {
					t.Errorf("asked for %s", p)
				}
				return test.slices
			})
			if evict != test.evict || !at.Equal(test.at) {
				t.Errorf("got %s, %v; want %s, %v", at, evict, test.at, test.evict)
			}
		})
	}
}

// fixture runs the controller.
func fixture(t *testing.T, objects ...runtime.Object) *controllertest.Fixture {
	t.Helper()
	f := controllertest.New(t, objects...)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	return f
}

func gone(f *controllertest.Fixture, pod string) bool {
	_, err := f.Client.CoreV1().Pods("ns").Get(context.Background(), pod, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

func TestEvictsUsersOfTaintedDevices(t *testing.T) {
	forEver := []resourcev1.DeviceToleration{tolerate("a", resourcev1.DeviceTaintEffectNoExecute, -1)}
	unbound := pod("unbound", "plain")
	unbound.Spec.NodeName = ""
	f := fixture(t, slice("s", 1, execute("a")),
		claim("plain", nil, "user", "unbound"), claim("stubborn", forEver, "tolerant"),
		pod("user", "plain"), pod("tolerant", "stubborn"), pod("unreserved", "plain"), unbound)
	controllertest.Eventually(t, "the user to go", func() bool { return gone(f, "user") })
	for _, name := range []string{"tolerant", "unreserved", "unbound"} {
		if gone(f, name) {
			t.Errorf("%s was evicted", name)
		}
	}
	var told bool
	for _, a := range f.Client.Actions() {
		if p, ok := a.(interface{ GetPatch() []byte }); ok && a.GetSubresource() == "status" {
			text := string(p.GetPatch())
			told = strings.Contains(text, `"reason":"DeletionByDeviceTaintManager"`) &&
				strings.Contains(text, `"message":"Device Taint manager: deleting due to NoExecute taint"`) && strings.Contains(text, `"type":"DisruptionTarget"`)
		}
	}
	if !told {
		t.Error("the pod was not told why")
	}
}

func TestFollowsWhatChanges(t *testing.T) {
	ctx := context.Background()
	f := fixture(t, slice("s", 1), claim("c", nil, "early"), claim("later", nil), pod("early", "c"), pod("late", "later"))
	devices := f.Client.ResourceV1().ResourceSlices()
	if _, err := devices.Update(ctx, slice("s", 1, execute("a")), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the user of a device that gets a taint to go", func() bool { return gone(f, "early") })
	if gone(f, "late") {
		t.Error("a pod went whose claim is not reserved for it")
	}
	if _, err := f.Client.ResourceV1().ResourceClaims("ns").UpdateStatus(ctx, claim("later", nil, "late"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the pod that gets a tainted device to go", func() bool { return gone(f, "late") })
}

func TestCancelsWhenTheTaintGoes(t *testing.T) {
	ctx := context.Background()
	fresh := execute("a")
	fresh.TimeAdded = ptr.To(metav1.Now())
	patient := []resourcev1.DeviceToleration{tolerate("a", resourcev1.DeviceTaintEffectNoExecute, 3600)}
	f := fixture(t, claim("c", patient, "patient"), pod("patient", "c"), slice("s", 1, fresh))
	cancelled := func() bool {
		list, err := f.Client.CoreV1().Events("ns").List(ctx, metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Reason == "DeviceTaintManagerEviction" && e.Message == "Cancelling deletion" && e.Source.Component == "device-taint-eviction-controller"
		})
	}
	generation := int64(1)
	controllertest.Eventually(t, "the cancellation", func() bool {
		// Taken away and given back, until the controller has seen the taint
		// before it saw that it is gone.
		for _, taints := range [][]resourcev1.DeviceTaint{{fresh}, nil} {
			generation++
			if _, err := f.Client.ResourceV1().ResourceSlices().Update(ctx, slice("s", generation, taints...), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			if cancelled() {
				return true
			}
		}
		return false
	})
	if gone(f, "patient") {
		t.Error("the pod was evicted before its time")
	}
}
