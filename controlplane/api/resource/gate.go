package resource

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

// gate keeps from claims what a request has no right to: access to devices
// that others use, and changes of the parts of a claim's status that belong to
// the scheduler or to another driver. It opens once the server has its stores.
type gate struct{ env *api.Environment }

// open is the Extend of the kinds behind the gate.
func (g *gate) open(env *api.Environment, _, _ *registry.Store) (map[string]rest.Storage, error) {
	g.env = env
	return nil, nil
}

// adminRequest refuses requests for admin access in namespaces not meant for it.
func (g *gate) adminRequest(ctx context.Context, requests []resourcev1.DeviceRequest, namespace string) field.ErrorList {
	for i, r := range requests {
		if r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false) {
			return g.adminNamespace(ctx, namespace, field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess"))
		}
	}
	return nil
}

func (g *gate) adminNamespace(ctx context.Context, namespace string, path *field.Path) field.ErrorList {
	getter, ok := g.env.Lookup("/namespaces").(rest.Getter)
	if !ok {
		return field.ErrorList{field.InternalError(path, errors.New("could not retrieve namespace to verify admin access: namespaces are not served"))}
	}
	object, err := getter.Get(ctx, namespace, &metav1.GetOptions{})
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if ns, ok := object.(*corev1.Namespace); !ok || ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true" {
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
	}
	return nil
}

// statusChange asks whether the request may change what it changes of a status.
func (g *gate) statusChange(ctx context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
	var errs field.ErrorList
	now, was := &c.Status, &old.Status
	if i := withAdmin(now.Allocation); i >= 0 && withAdmin(was.Allocation) < 0 {
		errs = append(errs, g.adminNamespace(ctx, c.Namespace, field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess"))...)
	}
	same := apiequality.Semantic.DeepEqual
	if !same(now.Allocation, was.Allocation) || !same(now.ReservedFor, was.ReservedFor) {
		errs = append(errs, g.binding(ctx, field.NewPath("status", "allocation"))...)
	}
	if now.Allocation != nil {
		errs = append(errs, g.driverStatus(ctx, now, was, field.NewPath("status", "devices"))...)
	}
	return errs
}

// withAdmin is the index of the first device with admin access, -1 for none.
func withAdmin(a *resourcev1.AllocationResult) int {
	if a != nil {
		for i, r := range a.Devices.Results {
			if ptr.Deref(r.AdminAccess, false) {
				return i
			}
		}
	}
	return -1
}

// binding wants the right to bind claims, in all namespaces.
func (g *gate) binding(ctx context.Context, path *field.Path) field.ErrorList {
	request, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("cannot build authorizer attributes: %w", err))}
	}
	err = g.ask(ctx, &asked{Attributes: request, verb: request.GetVerb(), subresource: resourcev1.SubresourceBinding})
	if err != nil {
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf(
			`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, request.GetVerb(), err))}
	}
	return nil
}

// driverStatus wants the right to speak for each driver whose devices' status
// changes. A service account that runs on the claim's node needs it for the
// drivers of its node only.
func (g *gate) driverStatus(ctx context.Context, now, was *resourcev1.ResourceClaimStatus, path *field.Path) field.ErrorList {
	changed := changedDrivers(now.Devices, was.Devices)
	if len(changed) == 0 {
		return nil
	}
	request, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("cannot build authorizer attributes: %w", err))}
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + request.GetVerb()}
	if node := nodeOf(now.Allocation); node != "" && runsOn(request, node) {
		verbs = append([]string{resourcev1.VerbPrefixAssociatedNode + request.GetVerb()}, verbs...)
	}
	var errs field.ErrorList
	for _, driver := range sets.List(changed) {
		var first error
		for _, verb := range verbs {
			err := g.ask(ctx, &asked{
				Attributes: request, verb: verb, subresource: resourcev1.SubresourceDriver, namespace: request.GetNamespace(), name: driver})
			if err == nil {
				first = nil
				break
			}
			if first == nil {
				first = err
			}
		}
		if first != nil {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, first)))
		}
	}
	return errs
}

// changedDrivers are the drivers of the devices whose status came, went or
// changed.
func changedDrivers(now, was []resourcev1.AllocatedDeviceStatus) sets.Set[string] {
	before := map[any]resourcev1.AllocatedDeviceStatus{}
	for _, d := range was {
		before[deviceOf(d)] = d
	}
	changed := sets.New[string]()
	for _, d := range now {
		old, had := before[deviceOf(d)]
		delete(before, deviceOf(d))
		if !had || !apiequality.Semantic.DeepEqual(old, d) {
			changed.Insert(d.Driver)
		}
	}
	for _, gone := range before {
		changed.Insert(gone.Driver)
	}
	return changed
}

// nodeOf is the only node that an allocation can be used on; empty: it names
// none, or several.
func nodeOf(a *resourcev1.AllocationResult) string {
	if a == nil || a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := a.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != metav1.ObjectNameField || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// runsOn reports whether the request comes from a pod of the node.
func runsOn(request authorizer.Attributes, node string) bool {
	if _, _, err := serviceaccount.SplitUsername(request.GetUser().GetName()); err != nil {
		return false
	}
	nodes := request.GetUser().GetExtra()[serviceaccount.NodeNameKey]
	return len(nodes) == 1 && nodes[0] == node
}

func (g *gate) ask(ctx context.Context, a *asked) error {
	decision, reason, err := g.env.Authorizer.Authorize(ctx, a)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil && reason != "":
		reason = fmt.Sprintf("%v: %s", err, reason)
	case err != nil:
		reason = err.Error()
	}
	return responsewriters.ForbiddenStatusError(a, reason)
}

// asked is a request as if it were for a subresource that stands for a right.
type asked struct {
	authorizer.Attributes
	verb, subresource, namespace, name string
}

func (a *asked) GetVerb() string        { return a.verb }
func (a *asked) GetSubresource() string { return a.subresource }
func (a *asked) GetNamespace() string   { return a.namespace }
func (a *asked) GetName() string        { return a.name }
