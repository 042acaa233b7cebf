package clusterroles

import (
	"context"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestAggregates(t *testing.T) {
	rule := func(resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"get"}}
	}
	part := func(name, label string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}, Rules: rules}
	}
	whole := part("whole", "whole", rule("stale"))
	whole.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "whole"}}}}
	f := controllertest.New(t, whole, part("b", "whole", rule("pods"), rule("secrets")), part("a", "whole", rule("pods")), part("c", "other", rule("nodes")))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	is := func(want ...rbacv1.PolicyRule) func() bool {
		return func() bool {
			role, err := f.Client.RbacV1().ClusterRoles().Get(context.Background(), "whole", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return equality.Semantic.DeepEqual(role.Rules, want)
		}
	}
	controllertest.Eventually(t, "the rules of both parts, each once", is(rule("pods"), rule("secrets")))
	if _, err := f.Client.RbacV1().ClusterRoles().Create(context.Background(), part("d", "whole", rule("services")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "a part that comes later", is(rule("pods"), rule("secrets"), rule("services")))
	if err := f.Client.RbacV1().ClusterRoles().Delete(context.Background(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the rules of a part that goes to go", is(rule("pods"), rule("services")))
}
