package csi

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The volume has 2Gi, the claim shows 1Gi at first.
func TestFileSystemsFollowTheirVolumes(t *testing.T) {
	const (
		pending    = v1.PersistentVolumeClaimNodeResizePending
		inProgress = v1.PersistentVolumeClaimNodeResizeInProgress
		infeasible = v1.PersistentVolumeClaimNodeResizeInfeasible
	)
	for name, test := range map[string]struct {
		state     v1.ClaimResourceStatus // and the claim is allocated 2Gi; "": it is allocated nothing
		shown     string
		asked     string // 2Gi if empty
		fails     codes.Code
		times     int // that it is tried; once if 0
		readOnly  bool
		calls     int
		size      string // that the claim shows in the end
		end       v1.ClaimResourceStatus
		condition bool
		fail      bool
	}{
		"an old resizer":                       {calls: 1, size: "2Gi"},
		"only the node":                        {state: pending, calls: 1, size: "2Gi"},
		"begun before":                         {state: inProgress, calls: 1, size: "2Gi"},
		"it is hopeless":                       {state: infeasible, size: "1Gi", end: infeasible},
		"the controller is not done":           {state: v1.PersistentVolumeClaimControllerResizeInProgress, size: "1Gi", end: v1.PersistentVolumeClaimControllerResizeInProgress},
		"it fails":                             {state: pending, fails: codes.Internal, calls: 1, size: "1Gi", end: inProgress, condition: true, fail: true},
		"it may have happened":                 {state: pending, fails: codes.Unavailable, calls: 1, size: "1Gi", end: inProgress, fail: true},
		"it cannot be":                         {state: pending, fails: codes.OutOfRange, calls: 1, size: "1Gi", end: infeasible, condition: true, fail: true},
		"it fails, and another size is wanted": {state: pending, asked: "1500Mi", fails: codes.Internal, times: 2, calls: 2, size: "1Gi", end: infeasible, condition: true, fail: true},
		"not while it is in use":               {state: pending, fails: codes.FailedPrecondition, times: 2, calls: 1, size: "1Gi", end: inProgress, condition: true},
		"not what nobody may write":            {state: pending, readOnly: true, size: "1Gi", end: pending},
		"it shows all":                         {shown: "2Gi", size: "2Gi"},
	} {
		t.Run(name, func(t *testing.T) {
			h, plugin := serve(t)
			h.fail("expand", test.fails)
			quantity := func(s string) v1.ResourceList { return v1.ResourceList{v1.ResourceStorage: resource.MustParse(s)} }
			if test.shown == "" {
				test.shown = "1Gi"
			}
			if test.asked == "" {
				test.asked = "2Gi"
			}
			claim := &v1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"},
				Spec:       v1.PersistentVolumeClaimSpec{Resources: v1.VolumeResourceRequirements{Requests: quantity(test.asked)}},
				Status: v1.PersistentVolumeClaimStatus{
					Capacity:   quantity(test.shown),
					Conditions: []v1.PersistentVolumeClaimCondition{{Type: v1.PersistentVolumeClaimFileSystemResizePending, Status: v1.ConditionTrue}},
				},
			}
			if test.state != "" {
				claim.Status.AllocatedResources = quantity("2Gi")
				claim.Status.AllocatedResourceStatuses = map[v1.ResourceName]v1.ClaimResourceStatus{v1.ResourceStorage: test.state}
			}
			m := manager(t, t.TempDir(), claim)
			if err := m.Register(t.Context(), plugin); err != nil {
				t.Fatal(err)
			}
			request := Request{Pod: testPod("one"), Volume: &v1.Volume{Name: "data"}, PV: testPV(), ReadOnly: test.readOnly}
			get := func() *v1.PersistentVolumeClaim {
				got, err := m.Client.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "c", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			for range max(1, test.times) {
				if err := m.Grow(t.Context(), request, get(), &Mounted{Path: "/x"}); (err != nil) != test.fail {
					t.Errorf("error %v", err)
				}
			}
			got := get().Status
			size := got.Capacity[v1.ResourceStorage]
			failed := slices.ContainsFunc(got.Conditions, func(c v1.PersistentVolumeClaimCondition) bool {
				return c.Type == v1.PersistentVolumeClaimNodeResizeError
			})
			if len(h.calls) != test.calls || size.String() != test.size || got.AllocatedResourceStatuses[v1.ResourceStorage] != test.end || failed != test.condition {
				t.Errorf("%d calls, status %+v", len(h.calls), got)
			}
		})
	}
}

// A volume that many nodes write is grown on each.
func TestEachNodeGrowsWhatManyWrite(t *testing.T) {
	h, plugin := serve(t)
	claim := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"},
		Spec:       v1.PersistentVolumeClaimSpec{AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteMany}},
		Status:     v1.PersistentVolumeClaimStatus{Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}},
	}
	pv := testPV()
	pv.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("1Gi")
	request := Request{Pod: testPod("one"), Volume: &v1.Volume{Name: "data"}, PV: pv}
	m := manager(t, t.TempDir(), claim)
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	grow := func(calls int) {
		t.Helper()
		if err := m.Grow(t.Context(), request, claim, &Mounted{Path: "/x"}); err != nil || len(h.calls) != calls {
			t.Errorf("%d calls, error %v", len(h.calls), err)
		}
	}
	grow(0)
	two := resource.MustParse("2Gi") // as another node has grown it
	pv.Spec.Capacity[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage] = two, two
	claim.Status.AllocatedResources = v1.ResourceList{v1.ResourceStorage: two}
	grow(1)
	grow(1)
}
