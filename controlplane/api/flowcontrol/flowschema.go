package flowcontrol

import (
	"context"
	"fmt"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var schemaDocs = flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()

var flowSchema = api.Definition[*flowcontrolv1.FlowSchema]{
	GroupVersion: groupVersion, Kind: "FlowSchema", Resource: "flowschemas", Singular: "flowschema", ClusterScope: true,
	New:     func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
	NewList: func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },

	Default:  defaultSchema,
	Validate: func(_ context.Context, s *flowcontrolv1.FlowSchema) field.ErrorList { return checkSchema(s) },
	ValidateUpdate: func(_ context.Context, s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
		return checkSchema(s)
	},
	Spec: func(s *flowcontrolv1.FlowSchema) any { return s.Spec },
	Status: &api.Status[*flowcontrolv1.FlowSchema]{
		Copy: func(to, from *flowcontrolv1.FlowSchema) { to.Status = from.Status },
		Validate: func(_ context.Context, s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
			var types []flowcontrolv1.FlowSchemaConditionType
			for _, c := range s.Status.Conditions {
				types = append(types, c.Type)
			}
			return checkConditions(types)
		},
		KeepMetadata: true,
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(), columns.Text("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
		columns.Text("MatchingPrecedence", schemaDocs["matchingPrecedence"]), columns.Text("DistinguisherMethod", schemaDocs["distinguisherMethod"]),
		columns.Age(), columns.Text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
	},
	Row: func(s *flowcontrolv1.FlowSchema) []any {
		method, missing := "<none>", "?"
		if s.Spec.DistinguisherMethod != nil {
			method = string(s.Spec.DistinguisherMethod.Type)
		}
		for _, c := range s.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
				missing = string(c.Status)
			}
		}
		return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, columns.Since(s.CreationTimestamp.Time), missing}
	},
}

func defaultSchema(s *flowcontrolv1.FlowSchema) {
	if s.Spec.MatchingPrecedence == 0 {
		s.Spec.MatchingPrecedence = 1000
	}
}

func checkSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	var errs field.ErrorList
	at := path.Child("matchingPrecedence")
	switch p := spec.MatchingPrecedence; {
	case p <= 0:
		errs = append(errs, field.Invalid(at, p, "must be a positive value"))
	case p > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		errs = append(errs, field.Invalid(at, p, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	case p == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(at, p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	methods := []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
	if m := spec.DistinguisherMethod; m != nil && !slices.Contains(methods, m.Type) {
		errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), *m, methods))
	}
	at = path.Child("priorityLevelConfiguration", "name")
	if name := spec.PriorityLevelConfiguration.Name; name == "" {
		errs = append(errs, field.Required(at, "must reference a priority level"))
	} else {
		errs = append(errs, invalid(at, name, apivalidation.NameIsDNSSubdomain(name, false))...)
	}
	for i := range spec.Rules {
		errs = append(errs, checkRule(&spec.Rules[i], path.Child("rules").Index(i))...)
	}
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !apiequality.Semantic.DeepEqual(fixed.Spec, *spec) {
			errs = append(errs, field.Invalid(path, *spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	return errs
}

func checkRule(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, checkSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, checkResourceRule(&r.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], path.Child("nonResourceRules").Index(i)
		errs = append(errs, checkVerbs(rule.Verbs, at.Child("verbs"))...)
		at = at.Child("nonResourceURLs")
		errs = append(errs, checkList(rule.NonResourceURLs, at, "nonResourceURLs must contain at least one value", "non-resource URLs")...)
		if !slices.Contains(rule.NonResourceURLs, "*") {
			for j, url := range rule.NonResourceURLs {
				errs = append(errs, checkURL(url, at.Index(j))...)
			}
		}
	}
	return errs
}

// checkSubject wants the part of a subject that its kind names, and no other.
func checkSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	kinds := []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}
	if !slices.Contains(kinds, s.Kind) {
		return field.ErrorList{field.NotSupported(path.Child("kind"), s.Kind, kinds)}
	}
	var errs field.ErrorList
	for _, part := range []struct {
		kind  flowcontrolv1.SubjectKind
		name  string
		set   bool
		check func(*field.Path) field.ErrorList
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(p *field.Path) field.ErrorList { return checkAccount(s.ServiceAccount, p) }},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(p *field.Path) field.ErrorList { return named(s.User.Name, p) }},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(p *field.Path) field.ErrorList { return named(s.Group.Name, p) }},
	} {
		at := path.Child(part.name)
		switch {
		case part.kind == s.Kind && !part.set:
			errs = append(errs, field.Required(at, fmt.Sprintf("%s is required when subject kind is '%s'", part.name, part.kind)))
		case part.kind == s.Kind:
			errs = append(errs, part.check(at)...)
		case part.set:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", part.name, part.kind)))
		}
	}
	return errs
}

func named(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return nil
}

func checkAccount(a *flowcontrolv1.ServiceAccountSubject, path *field.Path) field.ErrorList {
	errs := named(a.Name, path)
	if a.Name != "" && a.Name != flowcontrolv1.NameAll {
		errs = append(errs, invalid(path.Child("name"), a.Name, apivalidation.ValidateServiceAccountName(a.Name, false))...)
	}
	if a.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, invalid(path.Child("namespace"), a.Namespace, apivalidation.ValidateNamespaceName(a.Namespace, false))...)
}

var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func checkVerbs(list []string, path *field.Path) field.ErrorList {
	errs := checkList(list, path, "verbs must contain at least one value", "verbs")
	if !slices.Contains(list, "*") && slices.ContainsFunc(list, func(v string) bool { return !slices.Contains(verbs, v) }) {
		errs = append(errs, field.NotSupported(path, list, verbs))
	}
	return errs
}

func checkResourceRule(r *flowcontrolv1.ResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := checkVerbs(r.Verbs, path.Child("verbs"))
	errs = append(errs, checkList(r.APIGroups, path.Child("apiGroups"), "resource rules must supply at least one api group", "api groups")...)
	errs = append(errs, checkList(r.Resources, path.Child("resources"), "resource rules must supply at least one resource", "resources")...)
	at := path.Child("namespaces")
	if len(r.Namespaces) > 0 || !r.ClusterScope {
		errs = append(errs, checkList(r.Namespaces, at, "resource rules that are not cluster scoped must supply at least one namespace", "namespaces")...)
	}
	if slices.Contains(r.Namespaces, flowcontrolv1.NamespaceEvery) {
		return errs
	}
	for i, ns := range r.Namespaces {
		for _, m := range apivalidation.ValidateNamespaceName(ns, false) {
			errs = append(errs, field.Invalid(at.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+m))
		}
	}
	return errs
}
