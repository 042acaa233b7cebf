package rbac

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var ctx = context.Background()

func messages(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	if !slices.Equal(got, want) {
		t.Errorf("errors %q, want %q", got, want)
	}
}

func pods(verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{""}, Resources: []string{"pods"}}
}

func TestInvalidRoles(t *testing.T) {
	for _, test := range []struct {
		rule            rbacv1.PolicyRule
		inRole, cluster []string
	}{
		{pods("get"), nil, nil},
		{pods(), []string{"rules[0].verbs: Required value: verbs must contain at least one value"},
			[]string{"rules[0].verbs: Required value: verbs must contain at least one value"}},
		{rbacv1.PolicyRule{Verbs: []string{"get"}},
			[]string{"rules[0].apiGroups: Required value: resource rules must supply at least one api group", "rules[0].resources: Required value: resource rules must supply at least one resource"},
			[]string{"rules[0].apiGroups: Required value: resource rules must supply at least one api group", "rules[0].resources: Required value: resource rules must supply at least one resource"}},
		{rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}},
			[]string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`}, nil},
		{rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}, Resources: []string{"pods"}},
			[]string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`,
				`rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`},
			[]string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`}},
	} {
		r := &rbacv1.Role{Rules: []rbacv1.PolicyRule{test.rule}}
		messages(t, role.Validate(ctx, r), test.inRole...)
		messages(t, role.ValidateUpdate(ctx, r, r), test.inRole...)
		c := &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{test.rule}}
		messages(t, clusterRole.Validate(ctx, c), test.cluster...)
		messages(t, clusterRole.ValidateUpdate(ctx, c, c), test.cluster...)
	}
	if got := role.NameValidation("a/b", false); len(got) != 1 || got[0] != "may not contain '/'" {
		t.Errorf("name a/b: %q", got)
	}
	if got := role.NameValidation("system:a", false); len(got) != 0 {
		t.Errorf("name system:a: %q", got)
	}
	empty := &rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{}}
	messages(t, clusterRole.Validate(ctx, empty),
		"aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil")
	odd := &rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "no good"}}}}}
	if errs := clusterRole.Validate(ctx, odd); len(errs) == 0 {
		t.Error("a selector by an impossible label value passes")
	}
}

func TestInvalidBindings(t *testing.T) {
	good := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "r"}
	user := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: "u"}
	for _, test := range []struct {
		ref                rbacv1.RoleRef
		subject            rbacv1.Subject
		inBinding, cluster []string
	}{
		{good, user, nil, nil},
		{good, rbacv1.Subject{Kind: "ServiceAccount", Name: "a"}, nil, []string{"subjects[0].namespace: Required value"}},
		{good, rbacv1.Subject{Kind: "ServiceAccount", Name: "A", Namespace: "n"},
			[]string{`subjects[0].name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
			[]string{`subjects[0].name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`}},
		{good, rbacv1.Subject{Kind: "Robot", Name: "x"},
			[]string{`subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"`},
			[]string{`subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"`}},
		{good, rbacv1.Subject{APIGroup: "x", Kind: "Group"},
			[]string{"subjects[0].name: Required value", `subjects[0].apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"`},
			[]string{"subjects[0].name: Required value", `subjects[0].apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"`}},
		{rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"}, user, nil,
			[]string{`roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`}},
		{rbacv1.RoleRef{APIGroup: "x", Kind: "ClusterRole", Name: "a%b"}, user,
			[]string{`roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"`, `roleRef.name: Invalid value: "a%b": may not contain '%'`},
			[]string{`roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"`, `roleRef.name: Invalid value: "a%b": may not contain '%'`}},
		{rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole"}, user, []string{"roleRef.name: Required value"}, []string{"roleRef.name: Required value"}},
	} {
		subjects := []rbacv1.Subject{test.subject}
		messages(t, roleBinding.Validate(ctx, &rbacv1.RoleBinding{RoleRef: test.ref, Subjects: subjects}), test.inBinding...)
		messages(t, clusterRoleBinding.Validate(ctx, &rbacv1.ClusterRoleBinding{RoleRef: test.ref, Subjects: subjects}), test.cluster...)
	}
	other := good
	other.Name = "s"
	errs := clusterRoleBinding.ValidateUpdate(ctx, &rbacv1.ClusterRoleBinding{RoleRef: other}, &rbacv1.ClusterRoleBinding{RoleRef: good})
	messages(t, errs, `roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"s"}: cannot change roleRef`)
}

func TestBindingDefaultsAndRow(t *testing.T) {
	b := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		RoleRef:    rbacv1.RoleRef{Kind: "Role", Name: "r"},
		Subjects:   []rbacv1.Subject{{Kind: "User", Name: "u"}, {Kind: "Group", Name: "g"}, {Kind: "ServiceAccount", Namespace: "n", Name: "a"}},
	}
	roleBinding.Default(b)
	if b.RoleRef.APIGroup != rbacv1.GroupName || b.Subjects[0].APIGroup != rbacv1.GroupName || b.Subjects[1].APIGroup != rbacv1.GroupName || b.Subjects[2].APIGroup != "" {
		t.Errorf("defaults to %+v", b)
	}
	row := roleBinding.Row(b)
	if want := []any{"b", "Role/r", "<unknown>", "u", "g", "n/a"}; !slices.Equal(row, want) || len(row) != len(roleBinding.Columns) {
		t.Errorf("row %q, want %q", row, want)
	}
}

func TestDescribe(t *testing.T) {
	got := describe([]rbacv1.PolicyRule{
		pods("get"), {Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}, pods("list"),
		{Verbs: []string{"get"}, APIGroups: []string{"apps"}, Resources: []string{"deployments"}, ResourceNames: []string{"d"}},
	})
	want := []string{
		`{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`,
		`{APIGroups:["apps"], Resources:["deployments"], ResourceNames:["d"], Verbs:["get"]}`,
		`{NonResourceURLs:["/x"], Verbs:["get"]}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("described as\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

var errNoRoles = errors.New("some roles are gone")
