package coordination

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var lease = api.Definition[*coordinationv1.Lease]{
	GroupVersion: coordinationv1.SchemeGroupVersion,
	Kind:         "Lease",
	Resource:     "leases",
	Singular:     "lease",
	New:          func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
	NewList:      func() runtime.Object { return &coordinationv1.LeaseList{} },

	AllowCreateOnUpdate: true,
	// Two holders must not both believe that they won.
	ForbidUnconditionalUpdate: true,

	PrepareForCreate: func(_ context.Context, l *coordinationv1.Lease) { dropCoordination(l, nil) },
	PrepareForUpdate: func(_ context.Context, l, old *coordinationv1.Lease) { dropCoordination(l, old) },
	PlainFinalizers:  true,
	Validate: func(_ context.Context, l *coordinationv1.Lease) field.ErrorList {
		return checkLeaseSpec(&l.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: func(_ context.Context, l, _ *coordinationv1.Lease) field.ErrorList {
		return checkLeaseSpec(&l.Spec, field.NewPath("spec"))
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
		columns.Age(),
	},
	Row: func(l *coordinationv1.Lease) []any {
		return []any{l.Name, ptr.Deref(l.Spec.HolderIdentity, ""), columns.Since(l.CreationTimestamp.Time)}
	},
}

// dropCoordination keeps the fields of coordinated leader election, which is
// off by default, only where they are stored already.
func dropCoordination(l, old *coordinationv1.Lease) {
	if old == nil || old.Spec.Strategy == nil {
		l.Spec.Strategy = nil
	}
	if old == nil || old.Spec.PreferredHolder == nil {
		l.Spec.PreferredHolder = nil
	}
}

func checkLeaseSpec(spec *coordinationv1.LeaseSpec, path *field.Path) (errs field.ErrorList) {
	if seconds := spec.LeaseDurationSeconds; seconds != nil && *seconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *seconds, "must be greater than 0"))
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	if ptr.Deref(spec.PreferredHolder, "") != "" && ptr.Deref(spec.Strategy, "") == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
