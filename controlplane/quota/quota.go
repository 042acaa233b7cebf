package quota

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/utils/clock"
)

// NewConfiguration has an evaluator for each kind that quotas know by name.
// lister lists objects for who adds them up; nil where nobody does. cluster is
// asked when claims of devices are measured. Other kinds are counted by the library's evaluator as they are met.
func NewConfiguration(lister quota.ListerForResourceFunc, cluster Cluster) quota.Configuration {
	list := func(resource string) generic.ListFuncByNamespace {
		return generic.ListResourceUsingListerFunc(lister, corev1.SchemeGroupVersion.WithResource(resource))
	}
	evaluators := []quota.Evaluator{
		newPodEvaluator(list("pods"), clock.RealClock{}),
		newServiceEvaluator(list("services")),
		newClaimEvaluator(list("persistentvolumeclaims")),
		newDeviceEvaluator(generic.ListResourceUsingListerFunc(lister, resourcev1.SchemeGroupVersion.WithResource(deviceClaims.Resource)), cluster, clock.RealClock{}),
	}
	// These have a name of their own beside count/<resource>.
	for _, name := range []corev1.ResourceName{
		corev1.ResourceConfigMaps, corev1.ResourceQuotas, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	} {
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(corev1.Resource(string(name)), list(string(name)), name))
	}
	return generic.NewConfiguration(evaluators, ignored)
}

// ignored are resources that are not stored, and events, which come and go by
// themselves.
var ignored = map[schema.GroupResource]struct{}{
	corev1.Resource("bindings"):                                            {},
	corev1.Resource("componentstatuses"):                                   {},
	corev1.Resource("events"):                                              {},
	{Group: "events.k8s.io", Resource: "events"}:                           {},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"}:             {},
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}:       {},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}:      {},
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}:  {},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: {},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}:   {},
}

// evaluator measures one kind; the rest of its behaviour is alike for all.
type evaluator struct {
	resource schema.GroupResource
	list     generic.ListFuncByNamespace
	handles  func(admission.Attributes) bool
	matching func([]corev1.ResourceName) []corev1.ResourceName
	// scope tells whether an object is in a quota's scope; nil where the kind
	// knows no scopes.
	scope generic.MatchesScopeFunc
	usage func(runtime.Object) (corev1.ResourceList, error)
	// constraints refuses objects that do not say what a quota needs to know;
	// nil: none.
	constraints func([]corev1.ResourceName, runtime.Object) error
}

var _ quota.Evaluator = (*evaluator)(nil)

func (e *evaluator) GroupResource() schema.GroupResource { return e.resource }

func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

func (e *evaluator) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	return e.matching(names)
}

func (e *evaluator) Usage(object runtime.Object) (corev1.ResourceList, error) { return e.usage(object) }

func (e *evaluator) Constraints(required []corev1.ResourceName, object runtime.Object) error {
	if e.constraints == nil {
		return nil
	}
	return e.constraints(required, object)
}

func (e *evaluator) inScope() generic.MatchesScopeFunc {
	if e.scope == nil {
		return generic.MatchesNoScopeFunc
	}
	return e.scope
}

func (e *evaluator) Matches(q *corev1.ResourceQuota, object runtime.Object) (bool, error) {
	return generic.Matches(q, object, e.matching, e.inScope())
}

func (e *evaluator) MatchingScopes(object runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	matched := []corev1.ScopedResourceSelectorRequirement{}
	for _, scope := range scopes {
		ok, err := e.inScope()(scope, object)
		if err != nil {
			return nil, err
		}
		if ok {
			matched = append(matched, scope)
		}
	}
	return matched, nil
}

func (e *evaluator) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	uncovered := []corev1.ScopedResourceSelectorRequirement{}
	if e.scope == nil {
		return uncovered, nil
	}
	covered := map[corev1.ResourceQuotaScope]bool{}
	for _, scope := range matched {
		covered[scope.ScopeName] = true
	}
	for _, scope := range limited {
		if !covered[scope.ScopeName] {
			uncovered = append(uncovered, scope)
		}
	}
	return uncovered, nil
}

func (e *evaluator) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(options, e.list, e.inScope(), e.usage)
}

func count(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

func objectCount(resource string) corev1.ResourceName {
	return generic.ObjectCountQuotaResourceNameFor(corev1.Resource(resource))
}
