package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated, and still part of the API.

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/controlplane/controllers/controllertest"
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

func TestTruncate(t *testing.T) {
	list := func(n int) []corev1.EndpointAddress { return make([]corev1.EndpointAddress, n) }
	for name, test := range map[string]struct{ have, want [][2]int }{
		"fits":            {[][2]int{{600, 100}, {300, 0}}, [][2]int{{600, 100}, {300, 0}}},
		"unready shared":  {[][2]int{{300, 300}, {300, 100}}, [][2]int{{300, 300}, {300, 100}}},
		"unready go":      {[][2]int{{300, 600}, {300, 200}}, [][2]int{{300, 300}, {300, 100}}},
		"ready are cut":   {[][2]int{{900, 10}, {600, 10}}, [][2]int{{600, 0}, {400, 0}}},
		"shares round up": {[][2]int{{667, 0}, {667, 0}, {667, 0}}, [][2]int{{334, 0}, {334, 0}, {332, 0}}},
	} {
		var subsets []corev1.EndpointSubset
		for _, n := range test.have {
			subsets = append(subsets, corev1.EndpointSubset{Addresses: list(n[0]), NotReadyAddresses: list(n[1])})
		}
		cut := truncate(subsets)
		var got [][2]int
		for _, s := range subsets {
			got = append(got, [2]int{len(s.Addresses), len(s.NotReadyAddresses)})
		}
		if diff := cmp.Diff(test.want, got); diff != "" || cut != (cmp.Diff(test.have, test.want) != "") {
			t.Errorf("%s: cut %v, %s", name, cut, diff)
		}
	}
}

func TestEndpointsComeAndGoWithTheirService(t *testing.T) {
	ctx := context.Background()
	own := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "own", Namespace: "ns"}}
	early := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "early", Namespace: "ns"}}
	web, bare := service(), service()
	web.Spec.Selector = map[string]string{"app": "web"}
	web.CreationTimestamp = metav1.NewTime(time.Unix(1e9, 0))
	bare.Name = "own"
	f := controllertest.New(t, web, bare, own, early)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	endpoints := f.Client.CoreV1().Endpoints("ns")
	controllertest.Eventually(t, "endpoints of the service", func() bool {
		e, err := endpoints.Get(ctx, "web", metav1.GetOptions{})
		return err == nil && e.Annotations[corev1.EndpointsLastChangeTriggerTime] == "2001-09-09T01:46:40Z"
	})
	for _, name := range []string{"web", "own"} {
		if err := f.Client.CoreV1().Services("ns").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		controllertest.Eventually(t, "the endpoints to follow their service", func() bool {
			_, err := endpoints.Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	}
	if _, err := endpoints.Get(ctx, "early", metav1.GetOptions{}); err != nil {
		t.Errorf("endpoints that wait for their service: %v", err)
	}
}
