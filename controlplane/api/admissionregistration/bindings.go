package admissionregistration

import (
	"context"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var bindingColumns = []metav1.TableColumnDefinition{
	columns.Name(), columns.Text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
	columns.Text("ParamRef", "ParamRef indicates the param resource which sets the configuration param"), columns.Age(),
}

var validatingBinding = api.Definition[*admissionv1.ValidatingAdmissionPolicyBinding]{
	PlainFinalizers: true,
	GroupVersion:    groupVersion, Kind: "ValidatingAdmissionPolicyBinding", Resource: "validatingadmissionpolicybindings",
	Singular: "validatingadmissionpolicybinding", Categories: categories, ClusterScope: true, ForbidUnconditionalUpdate: true,
	New: func() *admissionv1.ValidatingAdmissionPolicyBinding {
		return &admissionv1.ValidatingAdmissionPolicyBinding{}
	},
	NewList: func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBindingList{} },

	Default: func(b *admissionv1.ValidatingAdmissionPolicyBinding) { defaultMatchResources(b.Spec.MatchResources) },
	Validate: func(_ context.Context, b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
		return checkValidatingBinding(&b.Spec)
	},
	ValidateUpdate: func(_ context.Context, b, _ *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
		return checkValidatingBinding(&b.Spec)
	},
	Warnings: func(_ context.Context, b, _ *admissionv1.ValidatingAdmissionPolicyBinding) []string {
		return nameWarnings(b.Name)
	},
	Spec:    func(b *admissionv1.ValidatingAdmissionPolicyBinding) any { return b.Spec },
	Columns: bindingColumns,
	Row: func(b *admissionv1.ValidatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, paramCell(b.Spec.ParamRef), columns.Since(b.CreationTimestamp.Time)}
	},
	Extend: guardBinding("validatingadmissionpolicies", func(b *admissionv1.ValidatingAdmissionPolicyBinding) bound {
		return bound{b.Spec.PolicyName, b.Spec.ParamRef}
	}),
}

var mutatingBinding = api.Definition[*admissionv1.MutatingAdmissionPolicyBinding]{
	PlainFinalizers: true,
	GroupVersion:    groupVersion, Kind: "MutatingAdmissionPolicyBinding", Resource: "mutatingadmissionpolicybindings",
	Singular: "mutatingadmissionpolicybinding", Categories: categories, ClusterScope: true, ForbidUnconditionalUpdate: true,
	New: func() *admissionv1.MutatingAdmissionPolicyBinding {
		return &admissionv1.MutatingAdmissionPolicyBinding{}
	},
	NewList: func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBindingList{} },

	Default: func(b *admissionv1.MutatingAdmissionPolicyBinding) { defaultMatchResources(b.Spec.MatchResources) },
	Validate: func(_ context.Context, b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
		return checkMutatingBinding(&b.Spec)
	},
	ValidateUpdate: func(_ context.Context, b, _ *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
		return checkMutatingBinding(&b.Spec)
	},
	Warnings: func(_ context.Context, b, _ *admissionv1.MutatingAdmissionPolicyBinding) []string {
		return nameWarnings(b.Name)
	},
	Spec:    func(b *admissionv1.MutatingAdmissionPolicyBinding) any { return b.Spec },
	Columns: bindingColumns,
	Row: func(b *admissionv1.MutatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, paramCell(b.Spec.ParamRef), columns.Since(b.CreationTimestamp.Time)}
	},
	Extend: guardBinding("mutatingadmissionpolicies", func(b *admissionv1.MutatingAdmissionPolicyBinding) bound {
		return bound{b.Spec.PolicyName, b.Spec.ParamRef}
	}),
}

func paramCell(ref *admissionv1.ParamRef) string {
	switch {
	case ref == nil || ref.Name == "" && ref.Selector == nil:
		return "<unset>"
	case ref.Name == "":
		return ref.Selector.String()
	case ref.Namespace == "":
		return "*/" + ref.Name // of the namespace of each request, or of none
	}
	return ref.Namespace + "/" + ref.Name
}

func checkValidatingBinding(spec *admissionv1.ValidatingAdmissionPolicyBindingSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := checkBinding(spec.PolicyName, spec.ParamRef, spec.MatchResources, path)
	at := path.Child("validationActions")
	for i := range spec.ValidationActions {
		action := spec.ValidationActions[i]
		errs = append(errs, among(&action, at.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if slices.Contains(spec.ValidationActions[:i], action) {
			errs = append(errs, field.Duplicate(at.Index(i), action))
		}
	}
	if slices.Contains(spec.ValidationActions, admissionv1.Deny) && slices.Contains(spec.ValidationActions, admissionv1.Warn) {
		errs = append(errs, field.Invalid(at, spec.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	if len(spec.ValidationActions) == 0 {
		errs = append(errs, field.Required(at, "at least one validation action is required"))
	}
	return errs
}

func checkMutatingBinding(spec *admissionv1.MutatingAdmissionPolicyBindingSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := checkBinding(spec.PolicyName, spec.ParamRef, spec.MatchResources, path)
	return append(errs, checkMutable(spec.MatchResources, path.Child("matchResources"))...)
}

func checkBinding(policy string, ref *admissionv1.ParamRef, match *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		errs = append(errs, invalid(path.Child("policyName"), policy, apivalidation.NameIsDNSSubdomain(policy, false))...)
	}
	errs = append(errs, checkParamRef(ref, path.Child("paramRef"))...)
	return append(errs, checkMatchResources(match, path.Child("matchResources"))...)
}

func checkParamRef(ref *admissionv1.ParamRef, path *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	var errs field.ErrorList
	const either = "name and selector are mutually exclusive"
	if ref.Name != "" {
		errs = append(errs, invalid(path.Child("name"), ref.Name, content.IsPathSegmentName(ref.Name))...)
		if ref.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child("name"), either))
		}
	}
	if ref.Selector != nil {
		errs = append(errs, unversioned.ValidateLabelSelector(ref.Selector, unversioned.LabelSelectorValidationOptions{}, path.Child("selector"))...)
		if ref.Name != "" {
			errs = append(errs, field.Forbidden(path.Child("selector"), either))
		}
	}
	if ref.Name == "" && ref.Selector == nil {
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	at := path.Child("parameterNotFoundAction")
	if a := ref.ParameterNotFoundAction; a == nil || *a == "" {
		return append(errs, field.Required(at, ""))
	}
	return append(errs, among(ref.ParameterNotFoundAction, at, admissionv1.DenyAction, admissionv1.AllowAction)...)
}
