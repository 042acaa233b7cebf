package admissionregistration

import (
	"context"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var mutatingPolicy = api.Definition[*admissionv1.MutatingAdmissionPolicy]{
	PlainFinalizers: true,
	GroupVersion:    groupVersion, Kind: "MutatingAdmissionPolicy", Resource: "mutatingadmissionpolicies",
	Singular: "mutatingadmissionpolicy", Categories: categories, ClusterScope: true, ForbidUnconditionalUpdate: true,
	New:     func() *admissionv1.MutatingAdmissionPolicy { return &admissionv1.MutatingAdmissionPolicy{} },
	NewList: func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyList{} },

	Default: func(p *admissionv1.MutatingAdmissionPolicy) {
		if p.Spec.FailurePolicy == nil {
			p.Spec.FailurePolicy = ptr.To(admissionv1.Fail)
		}
		defaultMatchResources(p.Spec.MatchConstraints)
	},
	Validate: func(_ context.Context, p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
		return checkMutating(&p.Spec, nil)
	},
	ValidateUpdate: func(_ context.Context, p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
		return checkMutating(&p.Spec, &old.Spec)
	},
	Warnings: func(_ context.Context, p, _ *admissionv1.MutatingAdmissionPolicy) []string {
		return nameWarnings(p.Name)
	},
	Spec:    func(p *admissionv1.MutatingAdmissionPolicy) any { return p.Spec },
	Columns: policyColumns("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
	Row: func(p *admissionv1.MutatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindCell(p.Spec.ParamKind), columns.Since(p.CreationTimestamp.Time)}
	},
	Extend: guardPolicy(func(p *admissionv1.MutatingAdmissionPolicy) *admissionv1.ParamKind { return p.Spec.ParamKind }),
}

func checkMutating(spec, old *admissionv1.MutatingAdmissionPolicySpec) field.ErrorList {
	path := field.NewPath("spec")
	var stored []string
	same := false
	if old != nil {
		same = apiequality.Semantic.DeepEqual(spec.ParamKind, old.ParamKind) && apiequality.Semantic.DeepEqual(spec.MatchConditions, old.MatchConditions)
		for _, c := range old.MatchConditions {
			stored = append(stored, strings.TrimSpace(c.Expression))
		}
		for _, v := range old.Variables {
			stored = append(stored, v.Expression)
		}
		for _, m := range old.Mutations {
			if m.ApplyConfiguration != nil {
				stored = append(stored, strings.TrimSpace(m.ApplyConfiguration.Expression))
			}
			if m.JSONPatch != nil {
				stored = append(stored, strings.TrimSpace(m.JSONPatch.Expression))
			}
		}
	}
	e, err := newExpressions(spec.ParamKind != nil, true, stored)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	errs := requiredAmong(spec.FailurePolicy, path.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)
	errs = append(errs, checkParamKind(spec.ParamKind, path.Child("paramKind"))...)
	at := path.Child("matchConstraints")
	errs = append(errs, checkConstraints(spec.MatchConstraints, at)...)
	errs = append(errs, checkMutable(spec.MatchConstraints, at)...)
	if !same {
		errs = append(errs, e.matchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	}
	errs = append(errs, e.variables(spec.Variables, path.Child("variables"))...)
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range spec.Mutations {
		errs = append(errs, e.mutation(&spec.Mutations[i], path.Child("mutations").Index(i))...)
	}
	at = path.Child("reinvocationPolicy")
	if spec.ReinvocationPolicy == "" {
		return append(errs, field.Required(at, ""))
	}
	return append(errs, among(&spec.ReinvocationPolicy, at, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
}

// mutation wants the expression that goes with the type of patch, and no other.
func (e *expressions) mutation(m *admissionv1.Mutation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	one := func(set bool, name string, what plugincel.ExpressionAccessor, otherSet bool, other string) {
		at := path.Child(name)
		if !set {
			errs = append(errs, field.Required(at, "must be specified when patchType is "+string(m.PatchType)))
		} else if at = at.Child("expression"); what.GetExpression() == "" {
			errs = append(errs, field.Required(at, ""))
		} else {
			may := plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true, HasPatchTypes: true}
			errs = append(errs, e.compile(what, may, at)...)
		}
		if otherSet {
			errs = append(errs, field.Invalid(path.Child(other), "{"+other+"}", "must not be specified when patchType is "+string(m.PatchType)))
		}
	}
	apply, json := &patch.ApplyConfigurationCondition{}, &patch.JSONPatchCondition{}
	if m.ApplyConfiguration != nil {
		apply.Expression = strings.TrimSpace(m.ApplyConfiguration.Expression)
	}
	if m.JSONPatch != nil {
		json.Expression = strings.TrimSpace(m.JSONPatch.Expression)
	}
	switch m.PatchType {
	case "":
		errs = append(errs, field.Required(path.Child("patchType"), ""))
	case admissionv1.PatchTypeApplyConfiguration:
		one(m.ApplyConfiguration != nil, "applyConfiguration", apply, m.JSONPatch != nil, "jsonPatch")
	case admissionv1.PatchTypeJSONPatch:
		one(m.JSONPatch != nil, "jsonPatch", json, m.ApplyConfiguration != nil, "applyConfiguration")
	default:
		errs = append(errs, field.NotSupported(path.Child("patchType"), m.PatchType, []admissionv1.PatchType{admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch}))
	}
	return errs
}
