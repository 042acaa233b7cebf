package admissionregistration

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/util/jsonpath"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

const (
	maxAuditAnnotations = 20
	maxAuditExpression  = 5 << 10 // bytes
)

var validatingPolicy = api.Definition[*admissionv1.ValidatingAdmissionPolicy]{
	PlainFinalizers: true,
	GroupVersion:    groupVersion, Kind: "ValidatingAdmissionPolicy", Resource: "validatingadmissionpolicies",
	Singular: "validatingadmissionpolicy", Categories: categories, ClusterScope: true, ForbidUnconditionalUpdate: true,
	New:     func() *admissionv1.ValidatingAdmissionPolicy { return &admissionv1.ValidatingAdmissionPolicy{} },
	NewList: func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyList{} },

	Default: func(p *admissionv1.ValidatingAdmissionPolicy) {
		if p.Spec.FailurePolicy == nil {
			p.Spec.FailurePolicy = ptr.To(admissionv1.Fail)
		}
		defaultMatchResources(p.Spec.MatchConstraints)
	},
	Validate: func(_ context.Context, p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
		return checkValidating(p, nil)
	},
	ValidateUpdate: func(_ context.Context, p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
		return checkValidating(p, old)
	},
	Warnings: func(_ context.Context, p, _ *admissionv1.ValidatingAdmissionPolicy) []string {
		return nameWarnings(p.Name)
	},
	Spec: func(p *admissionv1.ValidatingAdmissionPolicy) any { return p.Spec },
	Status: &api.Status[*admissionv1.ValidatingAdmissionPolicy]{
		Copy: func(to, from *admissionv1.ValidatingAdmissionPolicy) { to.Status = from.Status },
		Validate: func(_ context.Context, p, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return checkPolicyStatus(&p.Status, field.NewPath("status"))
		},
	},
	Columns: policyColumns("Validations", "Validations indicates the number of validation rules defined in this configuration"),
	Row: func(p *admissionv1.ValidatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Validations)), paramKindCell(p.Spec.ParamKind), columns.Since(p.CreationTimestamp.Time)}
	},
	Extend: guardPolicy(func(p *admissionv1.ValidatingAdmissionPolicy) *admissionv1.ParamKind { return p.Spec.ParamKind }),
}

func policyColumns(rules, description string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		columns.Name(), columns.Number(rules, description),
		columns.Text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"), columns.Age(),
	}
}

func paramKindCell(kind *admissionv1.ParamKind) string {
	if kind == nil {
		return "<unset>"
	}
	return kind.APIVersion + "/" + kind.Kind
}

func checkValidating(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	spec, path := &p.Spec, field.NewPath("spec")
	var stored []string
	same := false
	if old != nil {
		same = apiequality.Semantic.DeepEqual(spec.ParamKind, old.Spec.ParamKind) && apiequality.Semantic.DeepEqual(spec.MatchConditions, old.Spec.MatchConditions)
		for _, c := range old.Spec.MatchConditions {
			stored = append(stored, strings.TrimSpace(c.Expression))
		}
		for _, v := range old.Spec.Variables {
			stored = append(stored, v.Expression)
		}
		for _, v := range old.Spec.Validations {
			stored = append(stored, v.Expression, v.MessageExpression)
		}
		for _, a := range old.Spec.AuditAnnotations {
			stored = append(stored, strings.TrimSpace(a.ValueExpression))
		}
	}
	e, err := newExpressions(spec.ParamKind != nil, len(spec.Variables) > 0, stored)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	errs := requiredAmong(spec.FailurePolicy, path.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)
	errs = append(errs, checkParamKind(spec.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, checkConstraints(spec.MatchConstraints, path.Child("matchConstraints"))...)
	if !same {
		errs = append(errs, e.matchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	}
	errs = append(errs, e.variables(spec.Variables, path.Child("variables"))...)
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		const none = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(path.Child("validations"), none), field.Required(path.Child("auditAnnotations"), none))
	}
	for i := range spec.Validations {
		errs = append(errs, e.validation(&spec.Validations[i], path.Child("validations").Index(i))...)
	}
	at := path.Child("auditAnnotations")
	if len(spec.AuditAnnotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(at, spec.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	keys := sets.New[string]()
	for i := range spec.AuditAnnotations {
		a := &spec.AuditAnnotations[i]
		errs = append(errs, e.auditAnnotation(p.Name, a, at.Index(i))...)
		if keys.Has(a.Key) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("key"), a.Key))
		}
		keys.Insert(a.Key)
	}
	return errs
}

// checkConstraints wants a policy to say what it is about.
func checkConstraints(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := checkMatchResources(m, path)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("resourceRules"), ""))
	}
	return errs
}

func checkParamKind(kind *admissionv1.ParamKind, path *field.Path) field.ErrorList {
	if kind == nil {
		return nil
	}
	var errs field.ErrorList
	at := path.Child("apiVersion")
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	switch {
	case kind.APIVersion == "":
		errs = append(errs, field.Required(at, ""))
	case err != nil:
		errs = append(errs, field.Invalid(at, kind.APIVersion, err.Error()))
	default:
		joined := func(value string, faults []string) {
			if len(faults) > 0 {
				errs = append(errs, field.Invalid(at, value, strings.Join(faults, ",")))
			}
		}
		if gv.Group != "" {
			joined(gv.Group, validation.IsDNS1123Subdomain(gv.Group))
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(at, kind.APIVersion, "version must be specified"))
		} else {
			joined(gv.Version, validation.IsDNS1035Label(gv.Version))
		}
	}
	if kind.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if faults := validation.IsDNS1035Label(strings.ToLower(kind.Kind)); len(faults) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), kind.Kind, "may have mixed case, but should otherwise match: "+strings.Join(faults, ",")))
	}
	return errs
}

func (e *expressions) validation(v *admissionv1.Validation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("expression")
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at, "expression is not specified"))
	} else {
		may := plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true}
		errs = append(errs, e.compile(&validating.ValidationCondition{Expression: v.Expression}, may, at)...)
	}
	at = path.Child("messageExpression")
	if v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		errs = append(errs, field.Invalid(at, v.MessageExpression, "must be non-empty if specified"))
	} else if v.MessageExpression != "" {
		may := plugincel.OptionalVariableDeclarations{HasParams: e.params}
		errs = append(errs, e.compile(&validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, may, at)...)
	}
	if text := strings.TrimSpace(v.Message); v.Message != "" && text == "" {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must be non-empty if specified"))
	} else if strings.ContainsAny(text, "\n\r") {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, among(v.Reason, path.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

func (e *expressions) auditAnnotation(policy string, a *admissionv1.AuditAnnotation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Invalid(path.Child("key"), a.Key, "requires metadata.name be non-empty"))
	} else {
		key := policy + "/" + a.Key
		errs = append(errs, invalid(path.Child("key"), key, validation.IsQualifiedName(key))...)
	}
	at := path.Child("valueExpression")
	switch text := strings.TrimSpace(a.ValueExpression); {
	case text == "":
		errs = append(errs, field.Required(at, "valueExpression is not specified"))
	case len(text) > maxAuditExpression:
		errs = append(errs, field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpression)))
	default:
		may := plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true}
		errs = append(errs, e.compile(&validating.AuditAnnotationCondition{ValueExpression: text}, may, at)...)
	}
	return errs
}

func checkPolicyStatus(s *admissionv1.ValidatingAdmissionPolicyStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, unversioned.ValidateConditions(s.Conditions, path.Child("conditions"))...)
}
