package admissionregistration

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

var ctx = context.Background()

// check compares the faults of a new object, after defaulting, and its table's
// width. A fault need only begin as wanted: compilers say a lot.
func check[T api.Object](t *testing.T, d api.Definition[T], obj T, want ...string) {
	t.Helper()
	d.Default(obj)
	compare(t, d.Validate(ctx, obj), want...)
	if row := d.Row(obj); len(row) != len(d.Columns) {
		t.Errorf("%s: %d columns, %d cells", d.Kind, len(d.Columns), len(row))
	}
}

func compare(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for i, err := range errs {
		text := err.Error()
		if i < len(want) && strings.HasPrefix(text, want[i]) {
			text = want[i]
		}
		got = append(got, text)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func pods(ops ...admissionv1.OperationType) admissionv1.RuleWithOperations {
	return admissionv1.RuleWithOperations{Operations: ops, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}
}

func hooks(edit func(*admissionv1.ValidatingWebhook)) *admissionv1.ValidatingWebhookConfiguration {
	h := admissionv1.ValidatingWebhook{
		Name: "check.example.com", ClientConfig: admissionv1.WebhookClientConfig{URL: ptr.To("https://example.com/check")},
		Rules: []admissionv1.RuleWithOperations{pods(admissionv1.Create)}, SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
	}
	edit(&h)
	return &admissionv1.ValidatingWebhookConfiguration{Webhooks: []admissionv1.ValidatingWebhook{h}}
}

func TestWebhooks(t *testing.T) {
	type hook = *admissionv1.ValidatingWebhook
	for _, test := range []struct {
		edit func(hook)
		want []string
	}{
		{func(hook) {}, nil},
		{func(h hook) { h.Name = "check" }, []string{`webhooks[0].name: Invalid value: "check": should be a domain with at least three segments separated by dots`}},
		{func(h hook) { h.SideEffects = nil }, []string{"webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"}},
		{func(h hook) { h.SideEffects = ptr.To(admissionv1.SideEffectClassSome) }, []string{`webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`}},
		{func(h hook) { h.AdmissionReviewVersions = nil }, []string{"webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1"}},
		{func(h hook) { h.AdmissionReviewVersions = []string{"v9", "v9"} }, []string{
			`webhooks[0].admissionReviewVersions[1]: Invalid value: "v9": duplicate version`,
			`webhooks[0].admissionReviewVersions: Invalid value: ["v9","v9"]: must include at least one of v1, v1beta1`}},
		{func(h hook) { h.TimeoutSeconds = ptr.To[int32](31) }, []string{"webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"}},
		{func(h hook) { h.FailurePolicy = ptr.To(admissionv1.FailurePolicyType("Shrug")) }, []string{`webhooks[0].failurePolicy: Unsupported value: "Shrug": supported values: "Fail", "Ignore"`}},
		{func(h hook) { h.ClientConfig.URL = nil }, []string{"webhooks[0].clientConfig: Required value: exactly one of url or service is required"}},
		{func(h hook) { h.ClientConfig.URL = ptr.To("http://example.com") }, []string{`webhooks[0].clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme`}},
		{func(h hook) {
			h.ClientConfig = admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "n"}}
		}, []string{"webhooks[0].clientConfig.service.namespace: Required value"}},
		{func(h hook) { h.Rules[0].Resources = []string{"*", "pods", "pods/*", "pods/log"} }, []string{
			`webhooks[0].rules[0].resources[3]: Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log`,
			`webhooks[0].rules[0].resources: Invalid value: ["*","pods","pods/*","pods/log"]: if '*' is present, must not specify other resources without subresources`}},
		{func(h hook) { h.Rules[0] = admissionv1.RuleWithOperations{} }, []string{
			"webhooks[0].rules[0].operations: Required value", "webhooks[0].rules[0].apiGroups: Required value",
			"webhooks[0].rules[0].apiVersions: Required value", "webhooks[0].rules[0].resources: Required value"}},
		{func(h hook) { h.Rules[0].Operations = []admissionv1.OperationType{"*", "LOOK"} }, []string{
			`webhooks[0].rules[0].operations: Invalid value: ["*","LOOK"]: if '*' is present, must not specify other operations`,
			`webhooks[0].rules[0].operations[1]: Unsupported value: "LOOK": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`}},
		{func(h hook) {
			h.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "object.x == "}, {Name: "a", Expression: "true"}, {}, {Name: "b", Expression: "1"}}
		}, []string{`webhooks[0].matchConditions[0].expression: Invalid value: "object.x ==": compilation failed: `, `webhooks[0].matchConditions[1].name: Duplicate value: "a"`,
			"webhooks[0].matchConditions[2].expression: Required value", "webhooks[0].matchConditions[2].name: Required value",
			`webhooks[0].matchConditions[3].expression: Invalid value: "1": must evaluate to bool`}},
	} {
		check(t, validatingWebhooks, hooks(test.edit), test.want...)
	}
	c := hooks(func(h hook) { h.ClientConfig.URL, h.ClientConfig.Service = nil, &admissionv1.ServiceReference{} })
	validatingWebhooks.Default(c)
	if h := c.Webhooks[0]; *h.FailurePolicy != admissionv1.Fail || *h.TimeoutSeconds != 10 || *h.ClientConfig.Service.Port != 443 || *h.Rules[0].Scope != admissionv1.AllScopes || h.NamespaceSelector == nil {
		t.Errorf("defaulted to %+v", h)
	}
	two := hooks(func(hook) {})
	two.Webhooks = append(two.Webhooks, two.Webhooks[0])
	check(t, validatingWebhooks, two, `webhooks[1].name: Duplicate value: "check.example.com"`)

	m := &admissionv1.MutatingWebhookConfiguration{Webhooks: hooksOf(hooks(func(hook) {}))}
	m.Webhooks[0].ReinvocationPolicy = ptr.To(admissionv1.ReinvocationPolicyType("Often"))
	check(t, mutatingWebhooks, m, `webhooks[0].reinvocationPolicy: Unsupported value: "Often": supported values: "IfNeeded", "Never"`)

	// Conditions that stay as they were are not compiled again.
	old := hooks(func(h hook) { h.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "gone("}} })
	if errs := validatingWebhooks.ValidateUpdate(ctx, old.DeepCopy(), old); len(errs) > 0 {
		t.Errorf("unchanged condition: %v", errs)
	}
	if len(validatingWebhooks.Warnings(ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "x.static.k8s.io"}}, nil)) != 1 {
		t.Error("no warning about a reserved name")
	}
}

func policy(edit func(*admissionv1.ValidatingAdmissionPolicySpec)) *admissionv1.ValidatingAdmissionPolicy {
	p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: pods(admissionv1.Create)}}},
		Validations:      []admissionv1.Validation{{Expression: "object.metadata.name.startsWith('a')"}},
	}}
	edit(&p.Spec)
	return p
}

func TestValidatingPolicy(t *testing.T) {
	type spec = *admissionv1.ValidatingAdmissionPolicySpec
	for _, test := range []struct {
		edit func(spec)
		want []string
	}{
		{func(spec) {}, nil},
		{func(s spec) { s.MatchConstraints = nil }, []string{"spec.matchConstraints: Required value"}},
		{func(s spec) { s.MatchConstraints.ResourceRules = nil }, []string{"spec.matchConstraints.resourceRules: Required value"}},
		{func(s spec) { s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"a", "a", "b/c"} }, []string{
			`spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: "a"`,
			`spec.matchConstraints.resourceRules[0].resourceNames[2]: Invalid value: "b/c": may not contain '/'`}},
		{func(s spec) { s.Validations = nil }, []string{
			"spec.validations: Required value: validations or auditAnnotations must contain at least one item",
			"spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"}},
		{func(s spec) {
			s.Validations[0] = admissionv1.Validation{Expression: "object.", Message: "a\nb", MessageExpression: " ", Reason: ptr.To(metav1.StatusReasonGone)}
		}, []string{`spec.validations[0].expression: Invalid value: "object.": compilation failed: `,
			`spec.validations[0].messageExpression: Invalid value: " ": must be non-empty if specified`,
			`spec.validations[0].message: Invalid value: "a\nb": must not contain line breaks`,
			`spec.validations[0].reason: Unsupported value: "Gone": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"`}},
		{func(s spec) { s.Validations[0].Expression = "params.x == 1" }, []string{`spec.validations[0].expression: Invalid value: "params.x == 1": compilation failed: `}},
		{func(s spec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
			s.Validations[0].Expression = "params.x == 1"
		}, nil},
		{func(s spec) { s.ParamKind = &admissionv1.ParamKind{APIVersion: "a/b/c"} }, []string{
			`spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c`, "spec.paramKind.kind: Required value"}},
		{func(s spec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "1"}, {Name: "b", Expression: "variables.a + 1"}}
			s.Validations[0].Expression = "variables.b == 2"
		}, nil},
		{func(s spec) {
			s.Variables = []admissionv1.Variable{{Name: "for", Expression: "1"}, {Name: "b", Expression: "variables.c"}, {}}
		}, []string{`spec.variables[0].name: Invalid value: "for": must be a valid CEL identifier`,
			`spec.variables[1].expression: Invalid value: "variables.c": compilation failed: `,
			"spec.variables[2].name: Required value: name is not specified", "spec.variables[2].expression: Required value: expression is not specified"}},
		{func(s spec) {
			s.AuditAnnotations = []admissionv1.AuditAnnotation{{Key: "k", ValueExpression: "'v'"}, {Key: "k", ValueExpression: "1"}, {Key: "k k"}}
		}, []string{`spec.auditAnnotations[1].valueExpression: Invalid value: "1": must evaluate to one of [string null_type]`,
			`spec.auditAnnotations[1].key: Duplicate value: "k"`, `spec.auditAnnotations[2].key: Invalid value: "p/k k": `,
			"spec.auditAnnotations[2].valueExpression: Required value: valueExpression is not specified"}},
	} {
		check(t, validatingPolicy, policy(test.edit), test.want...)
	}
	status := &admissionv1.ValidatingAdmissionPolicy{Status: admissionv1.ValidatingAdmissionPolicyStatus{TypeChecking: &admissionv1.TypeChecking{
		ExpressionWarnings: []admissionv1.ExpressionWarning{{FieldRef: "spec.validations[0].expression", Warning: "w"}, {FieldRef: "spec["}},
	}}}
	compare(t, validatingPolicy.Status.Validate(ctx, status, nil), "status.typeChecking.expressionWarnings[1].warning: Required value",
		`status.typeChecking.expressionWarnings[1].fieldRef: Invalid value: "spec[": invalid JSONPath: `)
}

func TestMutatingPolicy(t *testing.T) {
	type spec = *admissionv1.MutatingAdmissionPolicySpec
	apply := admissionv1.Mutation{PatchType: admissionv1.PatchTypeApplyConfiguration,
		ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: `Object{metadata: Object.metadata{labels: {"a": "b"}}}`}}
	for _, test := range []struct {
		edit func(spec)
		want []string
	}{
		{func(spec) {}, nil},
		{func(s spec) {
			s.Mutations = []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: `[JSONPatch{op: "remove", path: "/spec"}]`}}}
		}, nil},
		{func(s spec) { s.Mutations = nil }, []string{"spec.mutations: Required value: mutations must contain at least one item"}},
		{func(s spec) { s.ReinvocationPolicy = "" }, []string{"spec.reinvocationPolicy: Required value"}},
		{func(s spec) { s.MatchConstraints.ResourceRules[0].Operations[0] = admissionv1.Delete },
			[]string{`spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`}},
		{func(s spec) {
			s.Mutations = []admissionv1.Mutation{{}, {PatchType: "Sed"}, {PatchType: admissionv1.PatchTypeJSONPatch, ApplyConfiguration: apply.ApplyConfiguration},
				{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: "1"}}}
		}, []string{"spec.mutations[0].patchType: Required value", `spec.mutations[1].patchType: Unsupported value: "Sed": supported values: "ApplyConfiguration", "JSONPatch"`,
			"spec.mutations[2].jsonPatch: Required value: must be specified when patchType is JSONPatch",
			`spec.mutations[2].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch`,
			`spec.mutations[3].applyConfiguration.expression: Invalid value: "1": must evaluate to Object`}},
	} {
		p := &admissionv1.MutatingAdmissionPolicy{Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: policy(func(*admissionv1.ValidatingAdmissionPolicySpec) {}).Spec.MatchConstraints,
			Mutations:        []admissionv1.Mutation{apply}, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
		}}
		test.edit(&p.Spec)
		check(t, mutatingPolicy, p, test.want...)
	}
}

func TestBindings(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicyBindingSpec
	deny := []admissionv1.ValidationAction{admissionv1.Deny}
	for _, test := range []struct {
		spec spec
		want []string
	}{
		{spec{PolicyName: "p", ValidationActions: deny, ParamRef: &admissionv1.ParamRef{Name: "x", ParameterNotFoundAction: ptr.To(admissionv1.DenyAction)}}, nil},
		{spec{}, []string{"spec.policyName: Required value", "spec.validationActions: Required value: at least one validation action is required"}},
		{spec{PolicyName: "p", ValidationActions: []admissionv1.ValidationAction{"Deny", "Warn", "Deny", "Cry"}}, []string{
			`spec.validationActions[2]: Duplicate value: "Deny"`, `spec.validationActions[3]: Unsupported value: "Cry": supported values: "Audit", "Deny", "Warn"`,
			`spec.validationActions: Invalid value: ["Deny","Warn","Deny","Cry"]: must not contain both Deny and Warn`}},
		{spec{PolicyName: "p", ValidationActions: deny, ParamRef: &admissionv1.ParamRef{}}, []string{
			"spec.paramRef: Required value: one of name or selector must be specified", "spec.paramRef.parameterNotFoundAction: Required value"}},
		{spec{PolicyName: "p", ValidationActions: deny, ParamRef: &admissionv1.ParamRef{Name: "a", Selector: &metav1.LabelSelector{}, ParameterNotFoundAction: ptr.To(admissionv1.ParameterNotFoundActionType("Hmm"))}}, []string{
			"spec.paramRef.name: Forbidden: name and selector are mutually exclusive", "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
			`spec.paramRef.parameterNotFoundAction: Unsupported value: "Hmm": supported values: "Deny", "Allow"`}},
	} {
		check(t, validatingBinding, &admissionv1.ValidatingAdmissionPolicyBinding{Spec: test.spec}, test.want...)
	}
	match := &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: pods(admissionv1.Delete)}}}
	check(t, mutatingBinding, &admissionv1.MutatingAdmissionPolicyBinding{Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p", MatchResources: match}},
		`spec.matchResources.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`)
}

// Who may not read parameters may not have policies read them.
func TestGuardOfParameters(t *testing.T) {
	var asked authorizer.Attributes
	decision := authorizer.DecisionDeny
	env := &api.Environment{
		Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			asked = a
			return decision, "", nil
		}),
		Lookup: func(string) rest.Storage { return nil },
	}
	as := func(groups ...string) context.Context {
		return request.WithUser(ctx, &user.DefaultInfo{Name: "u", Groups: groups})
	}
	ask := authorizer.AttributesRecord{Verb: "get", Name: "x", Namespace: "n"}
	if may, err := mayRead(as(), env, ask, nil); may || err != nil || asked.GetResource() != "*" || asked.GetName() != "x" || asked.GetUser().GetName() != "u" {
		t.Errorf("%v, %v, asked %+v", may, err, asked)
	}
	decision = authorizer.DecisionAllow
	if may, err := mayRead(as(), env, ask, nil); !may || err != nil {
		t.Errorf("allowed: %v, %v", may, err)
	}
	decision, asked = authorizer.DecisionDeny, nil
	if may, err := mayRead(as(user.SystemPrivilegedGroup), env, ask, nil); !may || err != nil || asked != nil {
		t.Errorf("administrator: %v, %v", may, err)
	}
	if _, err := mayRead(ctx, env, ask, nil); err == nil {
		t.Error("nobody may read")
	}
	if kind := paramKindOf(ctx, env, "validatingadmissionpolicies", "p"); kind != nil {
		t.Errorf("kind %v of no policy", kind)
	}
}
