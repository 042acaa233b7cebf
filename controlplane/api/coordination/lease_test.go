package coordination

import (
	"context"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestLease(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		spec coordinationv1.LeaseSpec
		want string
	}{
		{coordinationv1.LeaseSpec{LeaseDurationSeconds: ptr.To[int32](15), LeaseTransitions: ptr.To[int32](0)}, ""},
		{coordinationv1.LeaseSpec{LeaseDurationSeconds: ptr.To[int32](0)}, "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"},
		{coordinationv1.LeaseSpec{LeaseTransitions: ptr.To[int32](-1)}, "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"},
		{coordinationv1.LeaseSpec{PreferredHolder: ptr.To("x")}, "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"},
	} {
		l := &coordinationv1.Lease{Spec: test.spec}
		errs := lease.Validate(ctx, l)
		errs = append(errs, lease.ValidateUpdate(ctx, l, l)...)
		if test.want == "" {
			if len(errs) > 0 {
				t.Errorf("%+v: %v", test.spec, errs)
			}
			continue
		}
		if len(errs) != 2 || errs[0].Error() != test.want || errs[1].Error() != test.want {
			t.Errorf("%+v: %v, want %q twice", test.spec, errs, test.want)
		}
	}
}

// Coordinated leader election is off: its fields do not get in, but stay where
// they are.
func TestCoordinationFields(t *testing.T) {
	ctx := context.Background()
	full := coordinationv1.LeaseSpec{Strategy: ptr.To(coordinationv1.OldestEmulationVersion), PreferredHolder: ptr.To("x")}
	l := &coordinationv1.Lease{Spec: full}
	if lease.PrepareForCreate(ctx, l); l.Spec.Strategy != nil || l.Spec.PreferredHolder != nil {
		t.Errorf("created with %+v", l.Spec)
	}
	l = &coordinationv1.Lease{Spec: full}
	if lease.PrepareForUpdate(ctx, l, &coordinationv1.Lease{}); l.Spec.Strategy != nil || l.Spec.PreferredHolder != nil {
		t.Errorf("updated to %+v", l.Spec)
	}
	l = &coordinationv1.Lease{Spec: full}
	if lease.PrepareForUpdate(ctx, l, &coordinationv1.Lease{Spec: full}); l.Spec.Strategy == nil || l.Spec.PreferredHolder == nil {
		t.Errorf("an update lost %+v", full)
	}
	l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("me")}}
	if row := lease.Row(l); row[0] != "l" || row[1] != "me" || len(row) != len(lease.Columns) {
		t.Errorf("row %v", row)
	}
}
