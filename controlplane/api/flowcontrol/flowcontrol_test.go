package flowcontrol

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

var ctx = context.Background()

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
	for _, err := range errs {
		got = append(got, err.Error())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFlowSchema(t *testing.T) {
	for _, known := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
		check(t, flowSchema, known.DeepCopy())
	}
	type rule = flowcontrolv1.PolicyRulesWithSubjects
	schema := func(precedence int32, rules ...rule) *flowcontrolv1.FlowSchema {
		return &flowcontrolv1.FlowSchema{Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: precedence, Rules: rules,
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "l"}}}
	}
	check(t, flowSchema, &flowcontrolv1.FlowSchema{}, "spec.priorityLevelConfiguration.name: Required value: must reference a priority level")
	check(t, flowSchema, schema(1), "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1")
	check(t, flowSchema, schema(-1), "spec.matchingPrecedence: Invalid value: -1: must be a positive value")
	check(t, flowSchema, schema(10001), "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000")
	odd := schema(2)
	odd.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: "ByMood"}
	check(t, flowSchema, odd, `spec.distinguisherMethod.type: Unsupported value: {"type":"ByMood"}: supported values: "ByNamespace", "ByUser"`)
	check(t, flowSchema, schema(2, rule{}),
		"spec.rules[0].subjects: Required value: subjects must contain at least one value",
		"spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty")
	check(t, flowSchema, schema(2, rule{
		Subjects: []flowcontrolv1.Subject{
			{Kind: "Cat"}, {Kind: "User", Group: &flowcontrolv1.GroupSubject{Name: "g"}},
			{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Name: "*"}},
		},
		ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"look"}, APIGroups: []string{"*", "a"}}},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"a", "/a*", "/a/*", "//"}}},
	}), `spec.rules[0].subjects[0].kind: Unsupported value: "Cat": supported values: "Group", "ServiceAccount", "User"`,
		"spec.rules[0].subjects[1].user: Required value: user is required when subject kind is 'User'",
		"spec.rules[0].subjects[1].group: Forbidden: group is forbidden when subject kind is not 'Group'",
		"spec.rules[0].subjects[2].serviceAccount.namespace: Required value: must specify namespace for service account",
		`spec.rules[0].resourceRules[0].verbs: Unsupported value: ["look"]: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"`,
		`spec.rules[0].resourceRules[0].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other api groups`,
		"spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
		"spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
		`spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: "a": must start with slash`,
		`spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: "/a*": wildcard can only do suffix matching`,
		`spec.rules[0].nonResourceRules[0].nonResourceURLs[3]: Invalid value: "//": must not contain double slash`)
	changed := bootstrap.MandatoryFlowSchemaCatchAll.DeepCopy()
	changed.Spec.MatchingPrecedence = 9999
	if errs := flowSchema.Validate(ctx, changed); len(errs) != 1 || errs[0].Detail != "spec of 'catch-all' must equal the fixed value" {
		t.Errorf("changed catch-all: %v", errs)
	}
	compare(t, flowSchema.Status.Validate(ctx, &flowcontrolv1.FlowSchema{Status: flowcontrolv1.FlowSchemaStatus{Conditions: []flowcontrolv1.FlowSchemaCondition{{Type: "a"}, {Type: "a"}, {}}}}, nil),
		`status.conditions[1].type: Duplicate value: "a"`, "status.conditions[2].type: Required value")
}

func limited(edit func(*flowcontrolv1.LimitedPriorityLevelConfiguration)) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.LimitedPriorityLevelConfiguration{LimitResponse: flowcontrolv1.LimitResponse{
		Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{}}}
	edit(l)
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: l}}
}

func TestPriorityLevel(t *testing.T) {
	for _, known := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
		check(t, priorityLevel, known.DeepCopy())
	}
	type level = *flowcontrolv1.LimitedPriorityLevelConfiguration
	check(t, priorityLevel, limited(func(level) {}))
	check(t, priorityLevel, &flowcontrolv1.PriorityLevelConfiguration{}, "spec.type: Required value")
	check(t, priorityLevel, limited(func(l level) {
		l.NominalConcurrencyShares, l.LendablePercent, l.BorrowingLimitPercent = ptr.To[int32](-1), ptr.To[int32](101), ptr.To[int32](-1)
		l.LimitResponse.Type = flowcontrolv1.LimitResponseTypeReject
	}), "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
		"spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
		"spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
		"spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited")
	check(t, priorityLevel, limited(func(l level) {
		*l.LimitResponse.Queuing = flowcontrolv1.QueuingConfiguration{Queues: 512, HandSize: 16, QueueLengthLimit: -1}
	}), "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
		"spec.limited.limitResponse.queuing.handSize: Invalid value: 16: required entropy bits of deckSize 512 and handSize 16 should not be greater than 60")
	check(t, priorityLevel, limited(func(l level) { l.LimitResponse.Queuing.HandSize = 65 }),
		"spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)")
	exempt := limited(func(level) {})
	exempt.Spec.Type, exempt.Annotations = flowcontrolv1.PriorityLevelEnablementExempt, map[string]string{zeroShares: ""}
	check(t, priorityLevel, exempt, "metadata.annotations: Forbidden: annotation 'flowcontrol.k8s.io/concurrency-shares-defaults-to-zero' is forbidden",
		"spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'", "spec.limited: Forbidden: must be nil if the type is not Limited")

	fixed := bootstrap.MandatoryPriorityLevelConfigurationExempt.DeepCopy()
	fixed.Spec.Exempt.NominalConcurrencyShares = ptr.To[int32](9)
	check(t, priorityLevel, fixed)
	fixed = bootstrap.MandatoryPriorityLevelConfigurationCatchAll.DeepCopy()
	fixed.Spec.Limited.NominalConcurrencyShares = ptr.To[int32](9)
	if errs := priorityLevel.Validate(ctx, fixed); len(errs) != 1 || errs[0].Detail != "spec of 'catch-all' must equal the fixed value" {
		t.Errorf("changed catch-all: %v", errs)
	}
}

func TestEnsureBootstrap(t *testing.T) {
	mine := bootstrap.SuggestedPriorityLevelConfigurationSystem.DeepCopy()
	mine.Generation, mine.Spec.Limited.NominalConcurrencyShares = 2, ptr.To[int32](77)
	old := bootstrap.SuggestedPriorityLevelConfigurationWorkloadLow.DeepCopy()
	old.Generation, old.Spec.Limited.NominalConcurrencyShares = 1, ptr.To[int32](77)
	broken := bootstrap.MandatoryFlowSchemaCatchAll.DeepCopy()
	broken.Generation, broken.Spec.MatchingPrecedence = 5, 3
	mine.Annotations, old.Annotations, broken.Annotations = nil, nil, nil
	client := fake.NewClientset(mine, old, broken)
	for round := range 2 {
		client.ClearActions()
		if err := EnsureBootstrap(ctx, client); err != nil {
			t.Fatal(err)
		}
		for _, action := range client.Actions() {
			if round == 1 && action.GetVerb() != "get" {
				t.Errorf("nothing was left to do, but %s %s", action.GetVerb(), action.GetResource().Resource)
			}
		}
	}
	levels, err := client.FlowcontrolV1().PriorityLevelConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil || len(levels.Items) != len(bootstrap.MandatoryPriorityLevelConfigurations)+len(bootstrap.SuggestedPriorityLevelConfigurations) {
		t.Fatalf("%d levels, %v", len(levels.Items), err)
	}
	for _, l := range levels.Items {
		auto := l.Annotations[flowcontrolv1.AutoUpdateAnnotationKey]
		switch l.Name {
		case mine.Name:
			if *l.Spec.Limited.NominalConcurrencyShares != 77 || auto != "false" {
				t.Errorf("an administrator's level became %+v, auto %s", l.Spec.Limited, auto)
			}
		case old.Name:
			if *l.Spec.Limited.NominalConcurrencyShares == 77 || auto != "true" {
				t.Errorf("an old level stayed, auto %s", auto)
			}
		}
	}
	schema, err := client.FlowcontrolV1().FlowSchemas().Get(ctx, broken.Name, metav1.GetOptions{})
	if err != nil || schema.Spec.MatchingPrecedence != 10000 {
		t.Errorf("catch-all %+v, %v", schema, err)
	}
}
