package resource

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"clusterctl/controlplane/api"
)

var ctx = context.Background()

func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	v := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), v); err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return v
}

// compare wants each fault to begin as the one at its place does.
func compare(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	got := make([]string, 0, len(errs))
	for i, err := range errs {
		text := err.Error()
		if i < len(want) && strings.HasPrefix(text, want[i]) {
			text = want[i]
		}
		got = append(got, text)
	}
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		t.Error(diff)
	}
}

func TestDeviceClass(t *testing.T) {
	for _, test := range []struct {
		spec string
		want []string
	}{
		{`{selectors: [{cel: {expression: 'device.driver == "d.example.com"'}}], extendedResourceName: example.com/gpu, config: [{opaque: {driver: d, parameters: {a: 1}}}]}`, nil},
		{`{selectors: [{}, {cel: {expression: 'device.driver'}}, {cel: {expression: '1 +'}}]}`, []string{
			"spec.selectors[0].cel: Required value",
			`spec.selectors[1].cel.expression: Invalid value: "device.driver": must evaluate to bool`,
			`spec.selectors[2].cel.expression: Invalid value: "1 +": compilation failed`}},
		{`{selectors: [{cel: {expression: 'true` + strings.Repeat(" ", 10<<10) + `'}}]}`, []string{
			"spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"}},
		{`{selectors: [{cel: {expression: 'device.attributes["a.b"].map(s, s.lowerAscii().map(x, x)).all(x, true)'}}]}`, []string{
			`spec.selectors[0].cel.expression: Invalid value`}},
		{`{config: [{}, {opaque: {parameters: []}}]}`, []string{
			"spec.config[0].opaque: Required value",
			"spec.config[1].opaque.driver: Required value",
			`spec.config[1].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object`}},
		{`{extendedResourceName: cpu}`, []string{`spec.extendedResourceName: Invalid value: "cpu": must be a valid extended resource name`}},
	} {
		compare(t, deviceClass.Validate(ctx, &resourcev1.DeviceClass{Spec: *parse[resourcev1.DeviceClassSpec](t, test.spec)}), test.want...)
	}
}

func TestValidateClaim(t *testing.T) {
	for _, test := range []struct {
		spec string
		want []string
	}{
		{`{requests: [{name: r, exactly: {deviceClassName: c}}, {name: s, firstAvailable: [{name: a, deviceClassName: c, count: 2}, {name: b, deviceClassName: c, allocationMode: All}]}],
		   constraints: [{requests: [r, s/a], matchAttribute: example.com/a}, {distinctAttribute: example.com/b}], config: [{requests: [s], opaque: {driver: d, parameters: {}}}]}`, nil},
		{`{requests: [{name: r}, {name: r, exactly: {deviceClassName: c}, firstAvailable: [{name: a}]}, {name: R, exactly: {allocationMode: All, count: 1}}]}`, []string{
			"spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
			"spec.devices.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
			`spec.devices.requests[2].name: Invalid value: "R": a lowercase RFC 1123 label must consist of`,
			"spec.devices.requests[2].exactly.deviceClassName: Required value",
			"spec.devices.requests[2].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
			`spec.devices.requests[1]: Duplicate value: "r"`}},
		{`{requests: [{name: r, firstAvailable: [{name: a, deviceClassName: c, count: -1}, {name: a, deviceClassName: c, allocationMode: Some}]}]}`, []string{
			"spec.devices.requests[0].firstAvailable[0].count: Invalid value: -1: must be greater than zero",
			`spec.devices.requests[0].firstAvailable[1].allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount"`,
			`spec.devices.requests[0].firstAvailable[1]: Duplicate value: "a"`}},
		{`{requests: [{name: r, exactly: {deviceClassName: c, tolerations: [{key: a b, operator: Exists, value: x}, {effect: Never}, {operator: Near}]}}]}`, []string{
			`spec.devices.requests[0].exactly.tolerations[0].key: Invalid value: "a b"`,
			"spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: \"x\": must be empty for operator `Exists`",
			`spec.devices.requests[0].exactly.tolerations[1].effect: Unsupported value: "Never": supported values: "NoExecute", "NoSchedule", "None"`,
			`spec.devices.requests[0].exactly.tolerations[2].operator: Unsupported value: "Near": supported values: "Equal", "Exists"`}},
		{`{requests: [{name: r, exactly: {deviceClassName: c}}], constraints: [{requests: [r, r, x, a/b/c], matchAttribute: a}, {}]}`, []string{
			`spec.devices.constraints[0].requests[2]: Invalid value: "x": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'`,
			`spec.devices.constraints[0].requests[3]: Invalid value: "a/b/c": must be the name of a request`,
			`spec.devices.constraints[0].requests[1]: Duplicate value: "r"`,
			`spec.devices.constraints[0].matchAttribute: Invalid value: "a": a fully qualified name must be a domain and a name separated by a slash`,
			`spec.devices.constraints[1]: Required value: exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`}},
		{`{requests: [` + strings.Repeat("{},", 33) + `]}`, []string{"spec.devices.requests: Too many: 33: must have at most 32 items"}},
	} {
		claim := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: *parse[resourcev1.DeviceClaim](t, test.spec)}}
		d := resourceClaim(&gate{})
		d.Default(claim)
		compare(t, d.Validate(ctx, claim), test.want...)
	}
}

func TestClaimNeverChanges(t *testing.T) {
	d := resourceClaim(&gate{})
	old := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: *parse[resourcev1.DeviceClaim](t, `{requests: [{name: r, exactly: {deviceClassName: c}}]}`)}}
	d.Default(old)
	if e := old.Spec.Devices.Requests[0].Exactly; e.AllocationMode != "ExactCount" || e.Count != 1 {
		t.Errorf("defaulted to %+v", e)
	}
	now := old.DeepCopy()
	now.Spec.Devices.Requests[0].Exactly.Count = 2
	if errs := d.ValidateUpdate(ctx, now, old); len(errs) != 1 || !strings.HasSuffix(errs[0].Error(), "field is immutable") {
		t.Error(errs)
	}
}

func TestClaimTemplate(t *testing.T) {
	d := claimTemplate(&gate{})
	template := parse[resourcev1.ResourceClaimTemplate](t, `{spec: {metadata: {name: x, labels: {a: b}, annotations: {c: d}, finalizers: [e]}, spec: {devices: {requests: [{name: r}]}}}}`)
	compare(t, d.Validate(ctx, template), "spec.metadata.name: Forbidden: cannot be set", "spec.metadata.finalizers: Forbidden: cannot be set",
		"spec.spec.devices.requests[0]: Required value: exactly one of")
}

const allocation = `{devices: {results: [{request: r, driver: d.example.com, pool: p/q, device: dev}]}, nodeSelector: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}]}}`

func TestClaimStatus(t *testing.T) {
	spec := *parse[resourcev1.ResourceClaimSpec](t, `{devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}`)
	full := `{allocation: ` + allocation + `, reservedFor: [{resource: pods, name: p, uid: u}], devices: [{driver: d.example.com, pool: p/q, device: dev, networkData: {ips: [10.0.0.1/24]}}]}`
	for _, test := range []struct {
		now, old string
		deleted  bool
		want     []string
	}{
		{now: full, old: `{}`},
		{now: `{allocation: {}}`, old: `{}`},
		{now: `{}`, old: full},
		{now: `{reservedFor: [{}]}`, old: `{}`, want: []string{
			"status.reservedFor[0].resource: Required value", "status.reservedFor[0].name: Required value", "status.reservedFor[0].uid: Required value",
			"status.reservedFor: Forbidden: may not be specified when `allocated` is not set"}},
		{now: full, old: `{allocation: ` + allocation + `}`, deleted: true, want: []string{
			"status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"}},
		{now: `{allocation: ` + strings.Replace(allocation, "device: dev", "device: other", 1) + `}`, old: full, want: []string{`status.allocation: Invalid value: `}},
		{now: `{allocation: {devices: {results: [{request: x, driver: "", pool: "", device: D, shareID: X, bindingConditions: [a]}], config: [{source: Here, opaque: {driver: d, parameters: {}}}]}}}`, old: `{}`, want: []string{
			`status.allocation.devices.results[0].request: Invalid value: "x": must be the name of a request in the claim`,
			"status.allocation.devices.results[0].driver: Required value",
			"status.allocation.devices.results[0].pool: Required value",
			`status.allocation.devices.results[0].device: Invalid value: "D"`,
			"status.allocation.devices.results[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
			`status.allocation.devices.results[0].shareID: Invalid value: "X": error validating uid: invalid UUID length: 1`,
			`status.allocation.devices.config[0].source: Unsupported value: "Here": supported values: "FromClaim", "FromClass"`}},
		{now: `{allocation: ` + allocation + `, devices: [{driver: d.example.com, pool: p/q, device: gone, data: 1}]}`, old: `{}`, want: []string{
			`status.devices[0]: Invalid value: {"Driver":"d.example.com","Pool":"p/q","Device":"gone","ShareID":""}: must be an allocated device in the claim`,
			`status.devices[0].data: Invalid value: "<value omitted>": must be a valid JSON object`}},
	} {
		now := &resourcev1.ResourceClaim{Spec: spec, Status: *parse[resourcev1.ResourceClaimStatus](t, test.now)}
		old := &resourcev1.ResourceClaim{Spec: spec, Status: *parse[resourcev1.ResourceClaimStatus](t, test.old)}
		if test.deleted {
			now.DeletionTimestamp = &metav1.Time{}
		}
		compare(t, validateClaimStatus(now, old), test.want...)
	}
}

func TestDeallocatedDevicesHaveNoStatus(t *testing.T) {
	status := func(devices ...string) *resourcev1.ResourceClaimStatus {
		s := &resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}}
		for _, d := range devices {
			s.Allocation.Devices.Results = append(s.Allocation.Devices.Results, resourcev1.DeviceRequestAllocationResult{Driver: "d", Pool: "p", Device: d})
			s.Devices = append(s.Devices, resourcev1.AllocatedDeviceStatus{Driver: "d", Pool: "p", Device: d})
		}
		return s
	}
	now := status("a", "b")
	now.Allocation = status("b").Allocation
	dropDeallocated(now, status("a", "b"))
	if len(now.Devices) != 1 || now.Devices[0].Device != "b" {
		t.Errorf("left %+v", now.Devices)
	}
	now.Allocation = nil
	if dropDeallocated(now, status("b")); now.Devices != nil {
		t.Errorf("left %+v", now.Devices)
	}
}

func TestClaimRow(t *testing.T) {
	d, claim := resourceClaim(&gate{}), &resourcev1.ResourceClaim{}
	for _, want := range []string{"pending", "allocated", "allocated,reserved", "deleted,allocated,reserved"} {
		if got := d.Row(claim)[1]; got != want {
			t.Errorf("state %v, want %s", got, want)
		}
		switch {
		case claim.Status.Allocation == nil:
			claim.Status.Allocation = &resourcev1.AllocationResult{}
		case claim.Status.ReservedFor == nil:
			claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{}}
		default:
			claim.DeletionTimestamp = &metav1.Time{}
		}
	}
}

func TestResourceSlice(t *testing.T) {
	slice := func(more string) string {
		return `{driver: d.example.com, pool: {name: p, resourceSliceCount: 1}, ` + more + `}`
	}
	device := func(more string) string { return slice(`nodeName: n1, devices: [{name: a, ` + more + `}]`) }
	devices := func(n int, more string) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("{name: d%d%s}", i, more))
		}
		return slice(`allNodes: true, devices: [` + strings.Join(list, ", ") + `]`)
	}
	for _, test := range []struct {
		spec string
		want []string
	}{
		{slice(`nodeName: n1`), nil},
		{slice(`nodeSelector: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}`), nil},
		{device(`attributes: {a: {int: 1}, example.com/v: {version: 1.2.3-rc.1}}, capacity: {memory: {value: 1Gi}}, taints: [{key: k, effect: NoExecute}]`), nil},
		{slice(`perDeviceNodeSelection: true, devices: [{name: a, allNodes: true}, {name: b, nodeName: n1}]`), nil},
		{slice(`allNodes: true, sharedCounters: [{name: c, counters: {m: {value: 1}}}]`), nil},
		{devices(128, ""), nil},
		{devices(129, ""), []string{"spec.devices: Too many: 129: must have at most 128 items"}},
		{devices(65, ", taints: [{key: a, effect: None}]"), []string{"spec.devices: Too many: 65: must have at most 64 items"}},
		{`{pool: {name: A/, generation: -1}, allNodes: false}`, []string{
			"spec.driver: Required value", `spec.pool.name: Invalid value: "A"`, `spec.pool.name: Invalid value: ""`,
			"spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
			"spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
			"spec.allNodes: Invalid value: false: must be either unset or set to true",
			"spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"}},
		{slice(`nodeName: n1, allNodes: true`), []string{
			"spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"}},
		{slice(`nodeName: n1, devices: [{name: a}, {name: a}], sharedCounters: []`), []string{
			"spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed", `spec.devices[1]: Duplicate value: "a"`}},
		{device(`nodeName: m`), []string{"spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if"}},
		{slice(`perDeviceNodeSelection: true, devices: [{name: a}]`), []string{"spec.devices[0]: Required value: exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required"}},
		{device(`attributes: {a: {}, }`), []string{`spec.devices[0].attributes[a]: Invalid value: "": exactly one value must be specified`}},
		{device(`attributes: {a-b: {bool: true}}`), []string{`spec.devices[0].attributes: Invalid value: "a-b": a valid C identifier must start with`}},
		{device(`attributes: {/b: {version: "1"}}`), []string{
			`spec.devices[0].attributes: Invalid value: "": the domain must not be empty`,
			`spec.devices[0].attributes[/b].version: Invalid value: "1": must be a string compatible with semver.org spec 2.0.0`}},
		{device(`taints: [{key: k}, {key: l, effect: Stop}]`), []string{
			"spec.devices[0].taints[0].effect: Required value",
			`spec.devices[0].taints[1].effect: Unsupported value: "Stop": supported values: "NoExecute", "NoSchedule", "None"`}},
		{device(`consumesCounters: [{counterSet: "", counters: {}}]`), []string{
			"spec.devices[0].consumesCounters[0].counterSet: Required value", "spec.devices[0].consumesCounters[0].counters: Required value"}},
		{device(`capacity: {m: {value: 4, requestPolicy: {default: 1}}}`), []string{
			"spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true"}},
		{device(`bindingConditions: [a, a], bindingFailureConditions: [a]`), []string{
			`spec.devices[0].bindingConditions[1]: Duplicate value: "a"`,
			`spec.devices[0].bindingFailureConditions[0]: Invalid value: "a": bindingFailureConditions must not overlap with bindingConditions`}},
	} {
		compare(t, resourceSlice.Validate(ctx, &resourcev1.ResourceSlice{Spec: *parse[resourcev1.ResourceSliceSpec](t, test.spec)}), test.want...)
	}

	old := &resourcev1.ResourceSlice{Spec: *parse[resourcev1.ResourceSliceSpec](t, slice(`nodeName: n1`))}
	now := old.DeepCopy()
	now.Spec.Driver, now.Spec.NodeName, now.Spec.Pool.Name = "Other", ptr.To("m"), "q"
	compare(t, resourceSlice.ValidateUpdate(ctx, now, old), `spec.pool.name: Invalid value: "q": field is immutable`,
		`spec.driver: Invalid value: "Other": field is immutable`, `spec.nodeName: Invalid value: "m": field is immutable`)
	if warnings := resourceSlice.Warnings(ctx, now, old); len(warnings) != 1 || !strings.Contains(warnings[0], `"Other" contains uppercase`) {
		t.Errorf("warned %q", warnings)
	}
}

func TestRequestPolicy(t *testing.T) {
	for _, test := range []struct {
		policy string
		want   []string
	}{
		{`{}`, nil},
		{`{default: 2, validValues: [1, 2, 4]}`, nil},
		{`{default: 2, validRange: {min: 1, max: 7, step: 1}}`, nil},
		{`{default: 1, validValues: [1], validRange: {}}`, []string{`p: Forbidden: exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`}},
		{`{validValues: [1]}`, []string{"p.default: Required value: required when validValues is defined"}},
		{`{validRange: {min: 1}}`, []string{"p.default: Required value: required when validRange is defined"}},
		{`{default: 3, validValues: [2, 1, 9]}`, []string{
			`p.validValues[1]: Invalid value: "1": values must be sorted in ascending order`,
			`p.validValues[2]: Invalid value: "9": option is larger than capacity value: 8`,
			`p.validValues: Invalid value: "3": default value is not valid according to the requestPolicy`}},
		{`{default: 1, validRange: {}}`, []string{"p.validRange.min: Required value: required when validRange is defined"}},
		{`{default: 1, validRange: {min: 2, max: 9, step: 3}}`, []string{
			`p.validRange.min: Invalid value: "1": default is less than min: 2`,
			`p.validRange.max: Invalid value: "9": max is larger than capacity value: 8`,
			`p.validRange.step: Invalid value: "1": value is not a multiple of a given step (3) from (2)`,
			`p.validRange.step: Invalid value: "9": value is not a multiple of a given step (3) from (2)`}},
		{`{default: 2, validRange: {min: 1, step: 0}}`, []string{`p.validRange.step: Invalid value: "2": value is not a multiple of a given step (0) from (1)`}},
	} {
		compare(t, checkPolicy(resource.MustParse("8"), parse[resourcev1.CapacityRequestPolicy](t, test.policy), field.NewPath("p")), test.want...)
	}
}

func TestSliceDefaultsAndDisabledFields(t *testing.T) {
	s := &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{
		Taints:     []resourcev1.DeviceTaint{{Key: "k"}},
		Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"a": {IntValues: []int64{1}}},
		NodeAllocatableResourceMappings: map[corev1.ResourceName]resourcev1.NodeAllocatableResourceMapping{
			"cpu": {CapacityKey: ptr.To[resourcev1.QualifiedName]("c")}},
	}}}}
	resourceSlice.Default(s)
	first := s.Spec.Devices[0].Taints[0].TimeAdded
	resourceSlice.Default(s)
	if first == nil || s.Spec.Devices[0].Taints[0].TimeAdded != first {
		t.Errorf("taint added at %v, then %v", first, s.Spec.Devices[0].Taints[0].TimeAdded)
	}
	resourceSlice.PrepareForCreate(ctx, s)
	if d := s.Spec.Devices[0]; d.NodeAllocatableResourceMappings != nil || d.Attributes["a"].IntValues != nil {
		t.Errorf("kept %+v", d)
	}
}

func TestChangedDrivers(t *testing.T) {
	status := func(driver, device, name string) resourcev1.AllocatedDeviceStatus {
		return resourcev1.AllocatedDeviceStatus{Driver: driver, Pool: "p", Device: device, NetworkData: &resourcev1.NetworkDeviceData{InterfaceName: name}}
	}
	type list = []resourcev1.AllocatedDeviceStatus
	for _, test := range []struct {
		now, was list
		want     string
	}{
		{list{status("a", "1", "x")}, list{status("a", "1", "x")}, "[]"},
		{list{status("a", "1", "y"), status("b", "1", "x")}, list{status("a", "1", "x"), status("b", "1", "x")}, "[a]"},
		{list{status("a", "2", "x")}, list{status("b", "1", "x")}, "[a b]"},
	} {
		if got := fmt.Sprint(changedDrivers(test.now, test.was).UnsortedList()); len(got) != len(test.want) || test.want != "[a b]" && got != test.want {
			t.Errorf("changed %s, want %s", got, test.want)
		}
	}
}

func TestNodeOf(t *testing.T) {
	a := parse[resourcev1.AllocationResult](t, allocation)
	if got := nodeOf(a); got != "n1" {
		t.Errorf("node %q", got)
	}
	a.NodeSelector.NodeSelectorTerms[0].MatchFields[0].Values = []string{"n", "m"}
	if got := nodeOf(a); got != "" {
		t.Errorf("one node of two: %q", got)
	}
	if nodeOf(nil) != "" || nodeOf(&resourcev1.AllocationResult{}) != "" {
		t.Error("a node of no allocation")
	}
}

func TestAskSaysWhy(t *testing.T) {
	g := &gate{env: &api.Environment{Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetName() == "mine" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "because", nil
	})}}
	record := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "u"}, Verb: "update", APIGroup: "resource.k8s.io", Resource: "resourceclaims", ResourceRequest: true}
	if err := g.ask(ctx, &asked{Attributes: record, verb: "update", subresource: "driver", name: "mine"}); err != nil {
		t.Error(err)
	}
	err := g.ask(ctx, &asked{Attributes: record, verb: "update", subresource: "driver", name: "yours"})
	if err == nil || !strings.Contains(err.Error(), `cannot update resource "resourceclaims/driver" in API group "resource.k8s.io" at the cluster scope: because`) {
		t.Errorf("refused with %v", err)
	}
}
