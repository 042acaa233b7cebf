package admissionregistration

import (
	"context"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var webhookColumns = []metav1.TableColumnDefinition{
	columns.Name(), columns.Number("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"), columns.Age(),
}

var validatingWebhooks = api.Definition[*admissionv1.ValidatingWebhookConfiguration]{
	PlainFinalizers: true,
	GroupVersion:    groupVersion, Kind: "ValidatingWebhookConfiguration", Resource: "validatingwebhookconfigurations",
	Singular: "validatingwebhookconfiguration", Categories: categories, ClusterScope: true, ForbidUnconditionalUpdate: true,
	New: func() *admissionv1.ValidatingWebhookConfiguration {
		return &admissionv1.ValidatingWebhookConfiguration{}
	},
	NewList: func() runtime.Object { return &admissionv1.ValidatingWebhookConfigurationList{} },

	Default: func(c *admissionv1.ValidatingWebhookConfiguration) {
		for i := range c.Webhooks {
			h := &c.Webhooks[i]
			defaultHook(&h.FailurePolicy, &h.TimeoutSeconds, h.Rules, h.ClientConfig.Service)
			defaultMatch(&h.MatchPolicy, &h.NamespaceSelector, &h.ObjectSelector)
		}
	},
	Validate: func(_ context.Context, c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
		return checkHooks(hooksOf(c), nil)
	},
	ValidateUpdate: func(_ context.Context, c, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
		return checkHooks(hooksOf(c), hooksOf(old))
	},
	Warnings: func(_ context.Context, c, _ *admissionv1.ValidatingWebhookConfiguration) []string {
		return nameWarnings(c.Name)
	},
	Spec:      func(c *admissionv1.ValidatingWebhookConfiguration) any { return c.Webhooks },
	ExactSpec: true,
	Columns:   webhookColumns,
	Row: func(c *admissionv1.ValidatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), columns.Since(c.CreationTimestamp.Time)}
	},
}

var mutatingWebhooks = api.Definition[*admissionv1.MutatingWebhookConfiguration]{
	PlainFinalizers: true,
	GroupVersion:    groupVersion, Kind: "MutatingWebhookConfiguration", Resource: "mutatingwebhookconfigurations",
	Singular: "mutatingwebhookconfiguration", Categories: categories, ClusterScope: true, ForbidUnconditionalUpdate: true,
	New:     func() *admissionv1.MutatingWebhookConfiguration { return &admissionv1.MutatingWebhookConfiguration{} },
	NewList: func() runtime.Object { return &admissionv1.MutatingWebhookConfigurationList{} },

	Default: func(c *admissionv1.MutatingWebhookConfiguration) {
		for i := range c.Webhooks {
			h := &c.Webhooks[i]
			defaultHook(&h.FailurePolicy, &h.TimeoutSeconds, h.Rules, h.ClientConfig.Service)
			defaultMatch(&h.MatchPolicy, &h.NamespaceSelector, &h.ObjectSelector)
			if h.ReinvocationPolicy == nil {
				h.ReinvocationPolicy = ptr.To(admissionv1.NeverReinvocationPolicy)
			}
		}
	},
	Validate: func(_ context.Context, c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
		return checkHooks(c.Webhooks, nil)
	},
	ValidateUpdate: func(_ context.Context, c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
		return checkHooks(c.Webhooks, old.Webhooks)
	},
	Warnings: func(_ context.Context, c, _ *admissionv1.MutatingWebhookConfiguration) []string {
		return nameWarnings(c.Name)
	},
	Spec:      func(c *admissionv1.MutatingWebhookConfiguration) any { return c.Webhooks },
	ExactSpec: true,
	Columns:   webhookColumns,
	Row: func(c *admissionv1.MutatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), columns.Since(c.CreationTimestamp.Time)}
	},
}

func defaultHook(failure **admissionv1.FailurePolicyType, timeout **int32, rules []admissionv1.RuleWithOperations, service *admissionv1.ServiceReference) {
	if *failure == nil {
		*failure = ptr.To(admissionv1.Fail)
	}
	if *timeout == nil {
		*timeout = ptr.To[int32](10)
	}
	for i := range rules {
		defaultRule(&rules[i].Rule)
	}
	if service != nil && service.Port == nil {
		service.Port = ptr.To[int32](443)
	}
}

// hooksOf puts validating webhooks as mutating ones, of which they have all
// fields but one.
func hooksOf(c *admissionv1.ValidatingWebhookConfiguration) []admissionv1.MutatingWebhook {
	hooks := make([]admissionv1.MutatingWebhook, len(c.Webhooks))
	for i, h := range c.Webhooks {
		hooks[i] = admissionv1.MutatingWebhook{
			Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy, MatchPolicy: h.MatchPolicy,
			NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector, SideEffects: h.SideEffects,
			TimeoutSeconds: h.TimeoutSeconds, AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions,
		}
	}
	return hooks
}

// checkHooks checks webhooks; old are the ones before, nil where there were
// none.
func checkHooks(hooks, old []admissionv1.MutatingWebhook) field.ErrorList {
	var errs field.ErrorList
	var stored []string
	for _, h := range old {
		for _, c := range h.MatchConditions {
			stored = append(stored, strings.TrimSpace(c.Expression))
		}
	}
	same := len(old) > 0 && slices.EqualFunc(hooks, old, func(a, b admissionv1.MutatingWebhook) bool {
		return apiequality.Semantic.DeepEqual(a.MatchConditions, b.MatchConditions)
	})
	lenient := slices.ContainsFunc(old, func(h admissionv1.MutatingWebhook) bool {
		return unversioned.LabelSelectorHasInvalidLabelValue(h.NamespaceSelector) || unversioned.LabelSelectorHasInvalidLabelValue(h.ObjectSelector)
	})
	names := sets.New[string]()
	for i := range hooks {
		h, path := &hooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, checkHook(h, lenient, path)...)
		if !same {
			e := &expressions{Compiler: plain(), stored: sets.New(stored...)}
			errs = append(errs, e.matchConditions(h.MatchConditions, path.Child("matchConditions"))...)
		}
		errs = append(errs, checkReviewVersions(h.AdmissionReviewVersions, path.Child("admissionReviewVersions"))...)
		if h.Name != "" && names.Has(h.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), h.Name))
		}
		names.Insert(h.Name)
	}
	return errs
}

func checkHook(h *admissionv1.MutatingWebhook, lenient bool, path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), h.Name)
	for i := range h.Rules {
		errs = append(errs, checkRule(&h.Rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, among(h.FailurePolicy, path.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	errs = append(errs, among(h.MatchPolicy, path.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	if h.SideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	}
	errs = append(errs, among(h.SideEffects, path.Child("sideEffects"), admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	if s := h.TimeoutSeconds; s != nil && (*s < 1 || *s > 30) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *s, "the timeout value must be between 1 and 30 seconds"))
	}
	options := unversioned.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lenient}
	errs = append(errs, unversioned.ValidateLabelSelector(h.NamespaceSelector, options, path.Child("namespaceSelector"))...)
	errs = append(errs, unversioned.ValidateLabelSelector(h.ObjectSelector, options, path.Child("objectSelector"))...)
	errs = append(errs, among(h.ReinvocationPolicy, path.Child("reinvocationPolicy"), admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)

	at := path.Child("clientConfig")
	switch url, service := h.ClientConfig.URL, h.ClientConfig.Service; {
	case (url == nil) == (service == nil):
		errs = append(errs, field.Required(at, "exactly one of url or service is required"))
	case url != nil:
		errs = append(errs, webhook.ValidateWebhookURL(at.Child("url"), *url, true)...)
	default:
		// Kubernetes takes name and namespace for one another here, and says so
		// of the wrong one: the message is the one that users know.
		errs = append(errs, webhook.ValidateWebhookService(at.Child("service"), service.Name, service.Namespace, service.Path, ptr.Deref(service.Port, 443))...)
	}
	return errs
}

// reviewVersions are the versions of AdmissionReview that the server speaks.
var reviewVersions = []string{"v1", "v1beta1"}

func checkReviewVersions(versions []string, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of v1, v1beta1")}
	}
	var errs field.ErrorList
	known := false
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		errs = append(errs, invalid(path.Index(i), v, validation.IsDNS1035Label(v))...)
		known = known || slices.Contains(reviewVersions, v)
	}
	if !known {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}
