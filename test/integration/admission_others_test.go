package integration

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// webhook answers every review with what judge says, over TLS, and returns how
// to call it.
func webhook(t *testing.T, judge func(*corev1.ConfigMap) *admissionv1.AdmissionResponse) admissionregistrationv1.WebhookClientConfig {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		var object corev1.ConfigMap
		err := json.NewDecoder(r.Body).Decode(&review)
		if err == nil {
			err = json.Unmarshal(review.Request.Object.Raw, &object)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = judge(&object)
		review.Response.UID = review.Request.UID
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Errorf("answer review: %v", err)
		}
	}))
	t.Cleanup(server.Close)
	return admissionregistrationv1.WebhookClientConfig{
		URL:      ptr.To(server.URL + "/judge"),
		CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}
}

// configMapRules match writes of config maps of a test's namespace.
func configMapRules() []admissionregistrationv1.RuleWithOperations {
	return []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
	}}
}

func inNamespace(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}
}

// try creates a config map, without keeping it.
func (c *Cluster) try(ctx context.Context, namespace string, data map[string]string) (*corev1.ConfigMap, error) {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "try"}, Data: data}
	return c.Client.CoreV1().ConfigMaps(namespace).Create(ctx, object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

func TestWebhooks(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	none := ptr.To(admissionregistrationv1.SideEffectClassNone)
	hooks := c.Client.AdmissionregistrationV1()
	must(hooks.MutatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "mutate.example.com", SideEffects: none, AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector: inNamespace(ns), Rules: configMapRules(),
			ClientConfig: webhook(t, func(*corev1.ConfigMap) *admissionv1.AdmissionResponse {
				return &admissionv1.AdmissionResponse{
					Allowed: true, PatchType: ptr.To(admissionv1.PatchTypeJSONPatch),
					Patch: []byte(`[{"op":"add","path":"/data/seen","value":"yes"}]`),
				}
			}),
		}},
	}, metav1.CreateOptions{}))(t)
	must(hooks.ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "validate.example.com", SideEffects: none, AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector: inNamespace(ns), Rules: configMapRules(),
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "asked", Expression: `"ask" in object.data`}},
			ClientConfig: webhook(t, func(m *corev1.ConfigMap) *admissionv1.AdmissionResponse {
				// It sees what the other has changed.
				return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no config maps today, seen: " + m.Data["seen"]}}
			}),
		}},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{
			hooks.MutatingWebhookConfigurations().Delete, hooks.ValidatingWebhookConfigurations().Delete,
		} {
			if err := remove(context.WithoutCancel(ctx), ns, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, "the mutating webhook to be asked", func(ctx context.Context) (bool, error) {
		got, err := c.try(ctx, ns, map[string]string{"a": "b"})
		return err == nil && got.Data["seen"] == "yes", err
	})
	eventually(t, "the validating webhook to refuse", func(ctx context.Context) (bool, error) {
		_, err := c.try(ctx, ns, map[string]string{"ask": ""})
		return err != nil && strings.Contains(err.Error(), `admission webhook "validate.example.com" denied the request: no config maps today, seen: yes`), err
	})
	// The condition does not match, so nobody is asked.
	if _, err := c.try(ctx, ns, map[string]string{"a": "b"}); err != nil {
		t.Errorf("the webhook was asked in spite of its condition: %v", err)
	}
}

func TestAdmissionPolicies(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	policies := c.Client.AdmissionregistrationV1()
	rules := []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: configMapRules()[0]}}
	must(policies.ValidatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: rules, NamespaceSelector: inNamespace(ns)},
			Validations: []admissionregistrationv1.Validation{{
				Expression: "!has(object.data) || object.data.all(k, size(k) < 5)", MessageExpression: `"keys are short in " + object.metadata.namespace`,
			}},
		},
	}, metav1.CreateOptions{}))(t)
	must(policies.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: ns, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}, metav1.CreateOptions{}))(t)
	must(policies.MutatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints:   &admissionregistrationv1.MatchResources{ResourceRules: rules, NamespaceSelector: inNamespace(ns)},
			FailurePolicy:      ptr.To(admissionregistrationv1.Fail),
			ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{{
				PatchType: admissionregistrationv1.PatchTypeApplyConfiguration,
				ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{
					Expression: `Object{metadata: Object.metadata{labels: {"touched": "yes"}}}`,
				},
			}},
		},
	}, metav1.CreateOptions{}))(t)
	must(policies.MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec:       admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: ns},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "the mutating policy to count", func(ctx context.Context) (bool, error) {
		got, err := c.try(ctx, ns, map[string]string{"key": ""})
		return err == nil && got.Labels["touched"] == "yes", err
	})
	eventually(t, "the validating policy to refuse", func(ctx context.Context) (bool, error) {
		_, err := c.try(ctx, ns, map[string]string{"long-key": ""})
		return err != nil && strings.Contains(err.Error(), "keys are short in "+ns), err
	})
}
