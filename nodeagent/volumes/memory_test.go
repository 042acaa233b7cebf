package volumes

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// amounts reads "memory=1Gi".
func amounts(t *testing.T, list ...string) v1.ResourceList {
	t.Helper()
	all := v1.ResourceList{}
	for _, one := range list {
		name, text, _ := strings.Cut(one, "=")
		q, err := resource.ParseQuantity(text)
		if err != nil {
			t.Fatal(err)
		}
		all[v1.ResourceName(name)] = q
	}
	return all
}

func TestMemorySize(t *testing.T) {
	for name, test := range map[string]struct {
		limit       string // the volume's
		pod         string // memory of its only container
		allocatable string
		want        string
	}{
		"nothing known":             {want: "0"},
		"the node's":                {allocatable: "4Gi", want: "4Gi"},
		"the pod's":                 {pod: "1Gi", allocatable: "4Gi", want: "1Gi"},
		"the volume's":              {limit: "64Mi", pod: "1Gi", allocatable: "4Gi", want: "64Mi"},
		"more than the pod's":       {limit: "2Gi", pod: "1Gi", allocatable: "4Gi", want: "1Gi"},
		"more than the node's":      {limit: "8Gi", allocatable: "4Gi", want: "4Gi"},
		"none":                      {limit: "0", allocatable: "4Gi", want: "4Gi"},
		"the volume's, no node's":   {limit: "64Mi", want: "64Mi"},
		"a pod's beyond the node's": {pod: "8Gi", allocatable: "4Gi", want: "4Gi"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}}}}
			if test.pod != "" {
				pod.Spec.Containers[0].Resources.Limits = amounts(t, "memory="+test.pod)
			}
			var limit *resource.Quantity
			if test.limit != "" {
				limit = ptr.To(resource.MustParse(test.limit))
			}
			var allocatable v1.ResourceList
			if test.allocatable != "" {
				allocatable = amounts(t, "memory="+test.allocatable)
			}
			if got := memorySize(pod, limit, allocatable); got != ptr.To(resource.MustParse(test.want)).Value() {
				t.Errorf("%d bytes, not %s", got, test.want)
			}
		})
	}
}
