package authorization

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
)

// judge records what it is asked. It allows eve and her friends to read, and
// denies her to delete.
type judge struct{ asked authorizer.Attributes }

func (j *judge) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	j.asked = a
	if a.GetUser().GetName() != "eve" && !reflect.DeepEqual(a.GetUser().GetGroups(), []string{"friends"}) {
		return authorizer.DecisionNoOpinion, "a stranger", errors.New("who is that")
	}
	switch a.GetVerb() {
	case "get":
		return authorizer.DecisionAllow, "a reader", nil
	case "delete":
		return authorizer.DecisionDeny, "never", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (j *judge) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}, Resources: []string{u.GetName() + "." + namespace}}},
		[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}}, true, errors.New("not all")
}

func create(t *testing.T, j *judge, resource string, ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	t.Helper()
	for _, kind := range Kinds() {
		storages, err := kind.Storages(&api.Environment{Authorizer: j, RuleResolver: j})
		if err != nil {
			t.Fatal(err)
		}
		if storage, ok := storages[resource]; ok {
			return storage.(rest.Creater).Create(ctx, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		}
	}
	t.Fatalf("%s is not served", resource)
	return nil, nil
}

func TestSubjectAccessReview(t *testing.T) {
	get := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "ns"}
	for _, test := range []struct {
		name string
		meta metav1.ObjectMeta
		spec authorizationv1.SubjectAccessReviewSpec
		want authorizationv1.SubjectAccessReviewStatus
		err  string
	}{
		{name: "yes", spec: authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: get},
			want: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "a reader"}},
		{name: "by group", spec: authorizationv1.SubjectAccessReviewSpec{Groups: []string{"friends"}, NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/x"}},
			want: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "a reader"}},
		{name: "denied", spec: authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "delete"}},
			want: authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "never"}},
		{name: "not allowed", spec: authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list"}}},
		{name: "error", spec: authorizationv1.SubjectAccessReviewSpec{User: "mallory", ResourceAttributes: get},
			want: authorizationv1.SubjectAccessReviewStatus{Reason: "a stranger", EvaluationError: "who is that"}},
		{name: "selector half read", spec: authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get",
			FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{
				{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"one"}}, {Key: "x", Operator: "Near", Values: []string{"y"}}}},
			LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "a in b"}}},
			want: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "a reader",
				EvaluationError: "spec.resourceAttributes.fieldSelector partially ignored due to parse error; spec.resourceAttributes.labelSelector ignored due to parse error"}},
		{name: "nobody", spec: authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: get}, err: "spec.user: Invalid value: \"\": at least one of user or group must be specified"},
		{name: "nothing", spec: authorizationv1.SubjectAccessReviewSpec{User: "eve"},
			err: "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{name: "both", spec: authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: get, NonResourceAttributes: &authorizationv1.NonResourceAttributes{}},
			err: `spec.nonResourceAttributes: Invalid value: {"Path":"","Verb":""}: cannot be specified in combination with resourceAttributes`},
		{name: "metadata", meta: metav1.ObjectMeta{Name: "x"}, spec: authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: get}, err: "metadata: Invalid value:"},
		{name: "empty selector", spec: authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: &authorizationv1.ResourceAttributes{FieldSelector: &authorizationv1.FieldSelectorAttributes{}}},
			err: "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := create(t, &judge{}, "subjectaccessreviews", context.Background(), &authorizationv1.SubjectAccessReview{ObjectMeta: test.meta, Spec: test.spec})
			if test.err != "" {
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(answer.(*authorizationv1.SubjectAccessReview).Status, test.want) {
				t.Errorf("answer %+v, %v; want %+v", answer, err, test.want)
			}
		})
	}
}

func TestSelectorsAreAskedAbout(t *testing.T) {
	j := &judge{}
	_, err := create(t, j, "subjectaccessreviews", context.Background(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "eve", UID: "7", Extra: map[string]authorizationv1.ExtraValue{"k": {"v"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods", Subresource: "log", Group: "g", Name: "n",
			FieldSelector: &authorizationv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=one"},
			LabelSelector: &authorizationv1.LabelSelectorAttributes{Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: metav1.LabelSelectorOpIn, Values: []string{"b"}}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	fields, _ := j.asked.GetFieldSelector()
	labels, _ := j.asked.GetLabelSelector()
	if len(fields) != 1 || fields[0].Value != "one" || len(labels) != 1 || labels[0].String() != "a in (b)" {
		t.Errorf("asked with %v and %v", fields, labels)
	}
	if a := j.asked; a.GetAPIVersion() != "*" || a.GetSubresource() != "log" || a.GetAPIGroup() != "g" || a.GetName() != "n" || !a.IsResourceRequest() ||
		a.GetUser().GetUID() != "7" || a.GetUser().GetExtra()["k"][0] != "v" {
		t.Errorf("asked %+v", a)
	}
}

func TestSelfAndLocalReviews(t *testing.T) {
	get := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "ns"}
	asEve := request.WithUser(context.Background(), &user.DefaultInfo{Name: "eve"})
	answer, err := create(t, &judge{}, "selfsubjectaccessreviews", asEve, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: get}})
	if err != nil || !answer.(*authorizationv1.SelfSubjectAccessReview).Status.Allowed {
		t.Errorf("self: %+v, %v", answer, err)
	}
	local := func(namespace string, spec authorizationv1.SubjectAccessReviewSpec) *authorizationv1.LocalSubjectAccessReview {
		return &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}, Spec: spec}
	}
	in := func(namespace string) context.Context { return request.WithNamespace(context.Background(), namespace) }
	spec := authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: get}
	if answer, err = create(t, &judge{}, "localsubjectaccessreviews", in("ns"), local("ns", spec)); err != nil || !answer.(*authorizationv1.LocalSubjectAccessReview).Status.Allowed {
		t.Errorf("local: %+v, %v", answer, err)
	}
	_, err = create(t, &judge{}, "localsubjectaccessreviews", in("other"), local("other", spec))
	if err == nil || !strings.Contains(err.Error(), `spec.resourceAttributes.namespace: Invalid value: "ns": must match metadata.namespace`) {
		t.Errorf("another namespace: %v", err)
	}
	if _, err = create(t, &judge{}, "localsubjectaccessreviews", in("other"), local("ns", spec)); !apierrors.IsBadRequest(err) {
		t.Errorf("another namespace in the path: %v", err)
	}
	_, err = create(t, &judge{}, "localsubjectaccessreviews", in("ns"), local("ns", authorizationv1.SubjectAccessReviewSpec{User: "eve", NonResourceAttributes: &authorizationv1.NonResourceAttributes{}}))
	if err == nil || !strings.Contains(err.Error(), `spec.nonResourceAttributes: Invalid value: {"Path":"","Verb":""}: disallowed on this kind of request`) {
		t.Errorf("path: %v", err)
	}
}

func TestRulesReview(t *testing.T) {
	asEve := request.WithUser(context.Background(), &user.DefaultInfo{Name: "eve"})
	answer, err := create(t, &judge{}, "selfsubjectrulesreviews", asEve, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}})
	if err != nil {
		t.Fatal(err)
	}
	want := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{{Verbs: []string{"get"}, Resources: []string{"eve.ns"}}},
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}},
		Incomplete:       true,
		EvaluationError:  "not all",
	}
	if got := answer.(*authorizationv1.SelfSubjectRulesReview).Status; !reflect.DeepEqual(got, want) {
		t.Errorf("answer %+v, want %+v", got, want)
	}
	if _, err := create(t, &judge{}, "selfsubjectrulesreviews", asEve, &authorizationv1.SelfSubjectRulesReview{}); !apierrors.IsBadRequest(err) {
		t.Errorf("no namespace: %v", err)
	}
}
