package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated, and still part of the API.

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(name, ip string, ready bool, port int32) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec: corev1.PodSpec{NodeName: "node", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
}

func service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"},
		Spec: corev1.ServiceSpec{
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}},
		},
	}
}

// summary renders subsets as "port: ready | not ready".
func summary(subsets []corev1.EndpointSubset) []string {
	var result []string
	for _, s := range subsets {
		line := ""
		for _, p := range s.Ports {
			line += fmt.Sprintf("%s=%d", p.Name, p.Port)
		}
		line += ":"
		for _, a := range s.Addresses {
			line += " " + a.IP
		}
		line += " |"
		for _, a := range s.NotReadyAddresses {
			line += " " + a.IP
		}
		result = append(result, line)
	}
	return result
}

func TestSubsets(t *testing.T) {
	done := pod("done", "10.0.0.9", true, 8080)
	done.Status.Phase = corev1.PodSucceeded
	nameless := pod("nameless", "10.0.0.8", true, 8080)
	nameless.Spec.Containers[0].Ports = nil
	pods := []*corev1.Pod{pod("b", "10.0.0.2", true, 8080), pod("a", "10.0.0.1", true, 8080), pod("sick", "10.0.0.3", false, 8080),
		pod("other", "10.0.0.4", true, 9090), pod("young", "", false, 8080), done, nameless}
	got, cut := subsets(service(), pods)
	if diff := cmp.Diff([]string{"http=8080: 10.0.0.1 10.0.0.2 | 10.0.0.3", "http=9090: 10.0.0.4 |"}, summary(got)); diff != "" || cut {
		t.Errorf("cut %v, %s", cut, diff)
	}
	eager := service()
	eager.Spec.PublishNotReadyAddresses = true
	got, _ = subsets(eager, pods[:3])
	if diff := cmp.Diff([]string{"http=8080: 10.0.0.1 10.0.0.2 10.0.0.3 |"}, summary(got)); diff != "" {
		t.Error(diff)
	}
	headless := service()
	headless.Spec.ClusterIP, headless.Spec.Ports = corev1.ClusterIPNone, nil
	got, _ = subsets(headless, pods[:1])
	if diff := cmp.Diff([]string{": 10.0.0.2 |"}, summary(got)); diff != "" {
		t.Error(diff)
	}
	v6 := service()
	v6.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	if got, _ = subsets(v6, pods); len(got) != 0 {
		t.Errorf("IPv4 addresses for an IPv6 service: %v", summary(got))
	}
}

func TestCapacity(t *testing.T) {
	var pods []*corev1.Pod
	for i := range capacity + 5 {
		pods = append(pods, pod(fmt.Sprintf("p%04d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), i%2 == 0, 8080))
	}
	e := &corev1.Endpoints{}
	fill(e, service(), pods)
	ready, not := len(e.Subsets[0].Addresses), len(e.Subsets[0].NotReadyAddresses)
	if ready != (capacity+6)/2 || ready+not != capacity || e.Annotations[overCapacity] != "truncated" {
		t.Errorf("%d ready and %d others, annotations %v", ready, not, e.Annotations)
	}
	fill(e, service(), pods[:1])
	if _, ok := e.Annotations[overCapacity]; ok {
		t.Error("still marked as cut")
	}
}
