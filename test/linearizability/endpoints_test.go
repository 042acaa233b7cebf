//lint:file-ignore SA1019 Endpoints are what older clients of default/kubernetes read.

package linearizability

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testEndpoints sees the service "kubernetes" follow the API servers: one that
// ends, one that dies, and both when they come back.
func testEndpoints(t *testing.T, s *system) {
	follow := func(what string, by int, servers ...int) {
		t.Helper()
		var want []string
		for _, i := range servers {
			want = append(want, address(i))
		}
		var got string
		err := await(what, func(ctx context.Context) bool {
			var slice, old []string
			a, err := s.clients[by].DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
			if err != nil {
				got = err.Error()
				return false
			}
			for _, e := range a.Endpoints {
				slice = append(slice, e.Addresses...)
			}
			b, err := s.clients[by].CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{})
			if err != nil {
				got = err.Error()
				return false
			}
			for _, subset := range b.Subsets {
				for _, e := range subset.Addresses {
					old = append(old, e.IP)
				}
			}
			got = fmt.Sprintf("slice %v, endpoints %v", slice, old)
			return slices.Equal(slice, want) && slices.Equal(old, want)
		})
		if err != nil {
			t.Fatalf("%v; want %v, got %s", err, want, got)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	follow("all servers", 0, 0, 1, 2)

	do(s.servers[1].End(syscall.SIGTERM))
	// It takes its leave before it ends: nobody has to find out.
	follow("the server that ended to be gone", 0, 0, 2)
	do(s.servers[1].Start())
	follow("the server that is back", 0, 0, 1, 2)

	do(s.servers[2].End(syscall.SIGKILL))
	follow("the server that died to be gone", 1, 0, 1)
	do(s.servers[2].Start())
	follow("the server that is back from the dead", 2, 0, 1, 2)
}

// testNodePorts loses the record of node ports, and sees a server that starts
// write it anew from the services.
func testNodePorts(t *testing.T, s *system) {
	const port = 30_100
	service := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}},
		}}
	}
	all := s.clients[0].CoreV1().Services("default")
	if _, err := all.Create(t.Context(), service("first"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.etcd.Delete(t.Context(), "/registry/ranges/servicenodeports"); err != nil {
		t.Fatal(err)
	}
	if err := s.restart(s.servers[1], syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := await("the event about it", func(ctx context.Context) bool {
		list, err := s.clients[0].EventsV1().Events("default").List(ctx, metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Reason == "PortNotAllocated" && e.Regarding.Name == "first" && e.Note == fmt.Sprintf("Port %d is not allocated; repairing", port)
		})
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := all.Create(t.Context(), service("second"), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a second service with node port %d: %v", port, err)
	}
}
