package scheduler

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
)

// A selector that goes wrong on the devices of one node says that the claim is at
// fault: the pod goes nowhere until that is mended, be there nodes that would do.
func TestAFaultyClaimGoesNowhere(t *testing.T) {
	for expression, want := range map[string]bool{
		`device.attributes["d.example.com"].here`:                                                 true, // fails where it is not
		`has(device.attributes["d.example.com"].here) && device.attributes["d.example.com"].here`: false,
	} {
		profile := plugins.Default(nil)
		s := newScheduler(profile)
		for _, name := range []string{"a", "b"} {
			s.picture.SetNode(node(name))
			device := resourcev1.Device{Name: "d"}
			if name == "a" {
				device.Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"here": {BoolValue: ptr.To(true)}}
			}
			s.picture.Devices().SetSlice(&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
				Driver: "d.example.com", NodeName: &name, Pool: resourcev1.ResourcePool{Name: name, ResourceSliceCount: 1}, Devices: []resourcev1.Device{device}}})
		}
		s.picture.Devices().SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
		s.picture.Devices().SetClaim(&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c"}, Spec: resourcev1.ResourceClaimSpec{
			Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{
				DeviceClassName: "c", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1,
				Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}},
			}}}}}})
		pod := newPod("p", func(p *v1.Pod) {
			p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "dev", ResourceClaimName: ptr.To("c")}}
		})
		chosen, refusals, _ := s.decide(profile, picture.NewPod(pod))
		if faulty := chosen == nil; faulty != want {
			t.Errorf("%s: chosen %v", expression, chosen)
		}
		if want && (refusals == nil || !refusals.ByNode[0].Whole || refusals.ByNode[0] != refusals.ByNode[1] || len(refusals.Plugins) != 1) {
			t.Errorf("%s: refusals %+v", expression, refusals)
		}
	}
}
