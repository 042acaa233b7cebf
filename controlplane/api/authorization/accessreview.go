package authorization

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/review"
)

var subjectAccessReview = review.Definition[*authorizationv1.SubjectAccessReview]{
	GroupVersion: authorizationv1.SchemeGroupVersion,
	Kind:         "SubjectAccessReview",
	Resource:     "subjectaccessreviews",
	Singular:     "subjectaccessreview",
	New:          func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },

	Validate: func(r *authorizationv1.SubjectAccessReview) field.ErrorList {
		return append(checkSubject(r.Spec), checkEmpty(r.ObjectMeta)...)
	},
	Answer: func(ctx context.Context, env *api.Environment, r *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
		r.Status = decide(ctx, env.Authorizer, subject(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
		return r, nil
	},
}

var selfSubjectAccessReview = review.Definition[*authorizationv1.SelfSubjectAccessReview]{
	GroupVersion: authorizationv1.SchemeGroupVersion,
	Kind:         "SelfSubjectAccessReview",
	Resource:     "selfsubjectaccessreviews",
	Singular:     "selfsubjectaccessreview",
	New:          func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },

	Validate: func(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
		errs := checkAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
		errs = append(errs, checkSelectors(r.Spec.ResourceAttributes)...)
		return append(errs, checkEmpty(r.ObjectMeta)...)
	},
	Answer: func(ctx context.Context, env *api.Environment, r *authorizationv1.SelfSubjectAccessReview) (*authorizationv1.SelfSubjectAccessReview, error) {
		who, ok := request.UserFrom(ctx)
		if !ok {
			return nil, apierrors.NewBadRequest("no user present on request")
		}
		r.Status = decide(ctx, env.Authorizer, who, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
		return r, nil
	},
}

var localSubjectAccessReview = review.Definition[*authorizationv1.LocalSubjectAccessReview]{
	GroupVersion: authorizationv1.SchemeGroupVersion,
	Kind:         "LocalSubjectAccessReview",
	Resource:     "localsubjectaccessreviews",
	Singular:     "localsubjectaccessreview",
	Namespaced:   true,
	New:          func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} },

	Validate: func(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
		errs := checkSubject(r.Spec)
		meta := r.ObjectMeta
		meta.Namespace = ""
		if len(checkEmpty(meta)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata"), r.ObjectMeta, `must be empty except for namespace`))
		}
		if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
			errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), a.Namespace, `must match metadata.namespace`))
		}
		if a := r.Spec.NonResourceAttributes; a != nil {
			errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), a, `disallowed on this kind of request`))
		}
		return errs
	},
	Admissible: func(ctx context.Context, r *authorizationv1.LocalSubjectAccessReview) error {
		switch namespace := request.NamespaceValue(ctx); namespace {
		case "":
			return apierrors.NewBadRequest("namespace is required on this type: ")
		case r.Namespace:
			return nil
		default:
			return apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", namespace))
		}
	},
	Answer: func(ctx context.Context, env *api.Environment, r *authorizationv1.LocalSubjectAccessReview) (*authorizationv1.LocalSubjectAccessReview, error) {
		r.Status = decide(ctx, env.Authorizer, subject(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
		return r, nil
	},
}

func subject(spec authorizationv1.SubjectAccessReviewSpec) user.Info {
	var extra map[string][]string
	if spec.Extra != nil {
		extra = make(map[string][]string, len(spec.Extra))
		for key, values := range spec.Extra {
			extra[key] = values
		}
	}
	return &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: extra}
}

// decide asks the authorizer about one of the two kinds of request.
func decide(ctx context.Context, a authorizer.Authorizer, who user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	var attributes authorizer.AttributesRecord
	if resource != nil {
		attributes = resourceRequest(who, resource)
	} else {
		attributes = authorizer.AttributesRecord{User: who, Path: path.Path, Verb: path.Verb}
	}
	decision, reason, err := a.Authorize(ctx, attributes)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	var problems []string
	if err != nil {
		problems = append(problems, err.Error())
	}
	problems = append(problems, ignored("fieldSelector", len(attributes.FieldSelectorRequirements), attributes.FieldSelectorParsingErr)...)
	problems = append(problems, ignored("labelSelector", len(attributes.LabelSelectorRequirements), attributes.LabelSelectorParsingErr)...)
	status.EvaluationError = strings.Join(problems, "; ")
	return status
}

// ignored tells that a selector could not be read, or not all of it.
func ignored(name string, kept int, err error) []string {
	switch {
	case err == nil:
		return nil
	case kept > 0:
		return []string{"spec.resourceAttributes." + name + " partially ignored due to parse error"}
	default:
		return []string{"spec.resourceAttributes." + name + " ignored due to parse error"}
	}
}

// checkEmpty wants a question to have no metadata, beside what the server
// itself notes down.
func checkEmpty(meta metav1.ObjectMeta) field.ErrorList {
	bare := meta
	bare.ManagedFields = nil
	if apiequality.Semantic.DeepEqual(metav1.ObjectMeta{}, bare) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), meta, `must be empty`)}
}

func checkSubject(spec authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := checkAttributes(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, `at least one of user or group must be specified`))
	}
	return append(errs, checkSelectors(spec.ResourceAttributes)...)
}

func checkAttributes(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if resource != nil && path != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), path, `cannot be specified in combination with resourceAttributes`))
	}
	if resource == nil && path == nil {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes"), path, `exactly one of nonResourceAttributes or resourceAttributes must be specified`))
	}
	return errs
}
