package downward

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestField(t *testing.T) {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u", Labels: map[string]string{"b": "2", "a": "one\n"}},
		Spec:       v1.PodSpec{NodeName: "node"},
		Status:     v1.PodStatus{HostIP: "192.0.2.1", PodIPs: []v1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}},
	}
	for path, want := range map[string]string{
		"metadata.name":        "p",
		"metadata.uid":         "u",
		"metadata.labels":      "a=\"one\\n\"\nb=\"2\"",
		"metadata.labels['b']": "2",
		"spec.nodeName":        "node",
		"status.hostIP":        "192.0.2.1",
		"status.podIPs":        "10.0.0.1,fd00::1",
	} {
		if got, err := Field(pod, path); err != nil || got != want {
			t.Errorf("%s: got %q %v, want %q", path, got, err, want)
		}
	}
	if _, err := Field(pod, "spec.containers"); err == nil {
		t.Error("spec.containers: want an error")
	}
}

func TestResource(t *testing.T) {
	c := v1.Container{Name: "c", Resources: v1.ResourceRequirements{
		Limits:   v1.ResourceList{"cpu": resource.MustParse("1500m")},
		Requests: v1.ResourceList{"memory": resource.MustParse("33Mi")},
	}}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{c}}}
	allocatable := v1.ResourceList{"memory": resource.MustParse("1Gi")}
	cases := []struct{ name, divisor, want string }{
		{"limits.cpu", "", "2"},
		{"limits.cpu", "1m", "1500"},
		{"requests.memory", "1Mi", "33"},
		{"limits.memory", "", "1073741824"},
	}
	for _, tc := range cases {
		ref := &v1.ResourceFieldSelector{ContainerName: "c", Resource: tc.name}
		if tc.divisor != "" {
			ref.Divisor = resource.MustParse(tc.divisor)
		}
		if got, err := Resource(pod, nil, ref, allocatable); err != nil || got != tc.want {
			t.Errorf("%s/%s: got %q %v, want %q", tc.name, tc.divisor, got, err, tc.want)
		}
	}
}
