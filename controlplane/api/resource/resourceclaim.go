package resource

import (
	"context"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/dynamic-resource-allocation/structured/schedulerapi"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func resourceClaim(g *gate) api.Definition[*resourcev1.ResourceClaim] {
	return api.Definition[*resourcev1.ResourceClaim]{
		GroupVersion: groupVersion, Kind: "ResourceClaim", Resource: "resourceclaims", Singular: "resourceclaim",
		New:           func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
		NewList:       func() runtime.Object { return &resourcev1.ResourceClaimList{} },
		ReturnDeleted: true,

		Default: func(c *resourcev1.ResourceClaim) {
			defaultClaim(&c.Spec)
			if a := c.Status.Allocation; a != nil {
				for i := range a.Devices.Results {
					defaultTolerations(a.Devices.Results[i].Tolerations)
				}
			}
		},
		Validate: func(ctx context.Context, c *resourcev1.ResourceClaim) field.ErrorList {
			errs := g.adminRequest(ctx, c.Spec.Devices.Requests, c.Namespace)
			return append(errs, validateClaim(&c.Spec, field.NewPath("spec"))...)
		},
		// Nothing of the spec can have become wrong: it never changes.
		ValidateUpdate: func(_ context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
			return apivalidation.ValidateImmutableField(c.Spec, old.Spec, field.NewPath("spec"))
		},
		Status: &api.Status[*resourcev1.ResourceClaim]{
			Copy:    func(to, from *resourcev1.ResourceClaim) { to.Status = from.Status },
			Prepare: func(_ context.Context, c, old *resourcev1.ResourceClaim) { dropDeallocated(&c.Status, &old.Status) },
			Validate: func(ctx context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
				return append(g.statusChange(ctx, c, old), validateClaimStatus(c, old)...)
			},
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("State", "A summary of the current state (allocated, pending, reserved, etc.)."), columns.Age(),
		},
		Row: func(c *resourcev1.ResourceClaim) []any {
			return []any{c.Name, state(c), columns.Since(c.CreationTimestamp.Time)}
		},
		Extend: g.open,
	}
}

func state(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil && len(c.Status.ReservedFor) > 0:
		states = append(states, "allocated", "reserved")
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}

func deviceOf(s resourcev1.AllocatedDeviceStatus) schedulerapi.SharedDeviceID {
	return schedulerapi.MakeSharedDeviceID(schedulerapi.MakeDeviceID(s.Driver, s.Pool, s.Device), (*types.UID)(s.ShareID))
}

// allocated are the devices of an allocation; nil has none.
func allocated(a *resourcev1.AllocationResult) sets.Set[schedulerapi.SharedDeviceID] {
	devices := sets.New[schedulerapi.SharedDeviceID]()
	if a != nil {
		for _, r := range a.Devices.Results {
			devices.Insert(schedulerapi.MakeSharedDeviceID(schedulerapi.MakeDeviceID(r.Driver, r.Pool, r.Device), r.ShareID))
		}
	}
	return devices
}

// dropDeallocated forgets what was said of devices that were taken from the
// claim just now, so that clients which do not know of it need not.
func dropDeallocated(status, old *resourcev1.ResourceClaimStatus) {
	gone := allocated(old.Allocation).Difference(allocated(status.Allocation))
	kept := slices.DeleteFunc(slices.Clone(status.Devices), func(d resourcev1.AllocatedDeviceStatus) bool { return gone.Has(deviceOf(d)) })
	if status.Devices = kept; len(kept) == 0 {
		status.Devices = nil
	}
}
