package integration

import (
	"context"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPolicyTypes has the expressions of policies checked against types.
func TestPolicyTypes(t *testing.T) {
	c := Start(t)
	c.startControllers(t)
	policies := c.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	for name, test := range map[string]struct{ expression, warning string }{
		"types-good": {"object.spec.replicas > 1", ""},
		"types-bad":  {"object.spec.replicaz > 1", "undefined field 'replicaz'"},
	} {
		must(policies.Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionregistrationv1.RuleWithOperations{
						Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
						Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
					},
				}}},
				Validations: []admissionregistrationv1.Validation{{Expression: test.expression}},
			},
		}, metav1.CreateOptions{}))(t)
		t.Cleanup(func() { _ = policies.Delete(context.Background(), name, metav1.DeleteOptions{}) })
		var status admissionregistrationv1.ValidatingAdmissionPolicyStatus
		eventually(t, "the check of "+name, func(ctx context.Context) (bool, error) {
			policy, err := policies.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			status = policy.Status
			return status.ObservedGeneration == policy.Generation && status.TypeChecking != nil, nil
		})
		found := status.TypeChecking.ExpressionWarnings
		switch {
		case test.warning == "" && len(found) > 0:
			t.Errorf("%s: %+v", name, found)
		case test.warning != "" && (len(found) != 1 || found[0].FieldRef != "spec.validations[0].expression" || !strings.Contains(found[0].Warning, test.warning)):
			t.Errorf("%s: %+v, want %s", name, found, test.warning)
		}
	}
}
