package node

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestInvalidRuntimeClasses(t *testing.T) {
	ctx := context.Background()
	scheduling := func(s nodev1.Scheduling) *nodev1.RuntimeClass {
		return &nodev1.RuntimeClass{Handler: "runc", Scheduling: &s}
	}
	twice := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists}
	for _, test := range []struct {
		class *nodev1.RuntimeClass
		want  string
	}{
		{&nodev1.RuntimeClass{Handler: "runc"}, ""},
		{&nodev1.RuntimeClass{}, "handler: Required value"},
		{&nodev1.RuntimeClass{Handler: "Run_C"}, `handler: Invalid value: "Run_C": a lowercase RFC 1123 label must consist`},
		{&nodev1.RuntimeClass{Handler: "r", Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{"cpu": resource.MustParse("10m")}}}, ""},
		{&nodev1.RuntimeClass{Handler: "r", Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{"cpu": resource.MustParse("-1")}}}, `overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
		{scheduling(nodev1.Scheduling{NodeSelector: map[string]string{"a": "no good"}}), `scheduling.nodeSelector: Invalid value: "no good"`},
		{scheduling(nodev1.Scheduling{Tolerations: []corev1.Toleration{{Operator: "Odd", Key: "a"}}}), `scheduling.tolerations[0].operator: Unsupported value: "Odd"`},
		{scheduling(nodev1.Scheduling{Tolerations: []corev1.Toleration{twice, twice}}), `scheduling.tolerations[1]: Duplicate value: `},
	} {
		errs := runtimeClass.Validate(ctx, test.class)
		if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), test.want)) {
			t.Errorf("%+v: %v, want %q", test.class, errs, test.want)
		}
	}
	a, b := &nodev1.RuntimeClass{Handler: "a"}, &nodev1.RuntimeClass{Handler: "b"}
	if errs := runtimeClass.ValidateUpdate(ctx, b, a); len(errs) != 1 || errs[0].Error() != `handler: Invalid value: "b": field is immutable` {
		t.Errorf("another handler: %v", errs)
	}
	old := scheduling(nodev1.Scheduling{NodeSelector: map[string]string{"beta.kubernetes.io/os": "linux"}})
	if warnings := runtimeClass.Warnings(ctx, old, nil); len(warnings) != 1 || !strings.Contains(warnings[0], `use "kubernetes.io/os" instead`) {
		t.Errorf("warnings %v", warnings)
	}
	if row := runtimeClass.Row(a); len(row) != len(runtimeClass.Columns) || row[1] != "a" {
		t.Errorf("row %v", row)
	}
}
