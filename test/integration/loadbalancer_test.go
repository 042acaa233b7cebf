package integration

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/metadata"

	"clusterctl/controlplane/controllers/loadbalancer"
	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/hostconfig"
)

// balance runs the controller of load balancers, with the rights that it has in
// a cluster, until the test or stop ends it.
func (c *Cluster) balance(t *testing.T, pools ...hostconfig.LoadBalancerPool) (stop func()) {
	t.Helper()
	config := c.Server.ClientConfig(user.KubeControllerManager)
	env := must(reconcile.NewEnvironment(clients(t, config), must(metadata.NewForConfig(config))(t), slog.New(slog.NewTextHandler(t.Output(), nil))))(t)
	controller := must(loadbalancer.New(env, pools))(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		env.Start(ctx)
		err := env.Sync(ctx)
		if err == nil {
			err = controller.Run(ctx)
		}
		if err != nil && ctx.Err() == nil {
			t.Errorf("load balancers: %v", err)
		}
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
			env.Close()
		}
	}
	t.Cleanup(stop)
	return stop
}

// Four services ask for three addresses, whatever happens to the controller.
// The server is its own: other tests leave services that would get some too.
func TestLoadBalancerAddresses(t *testing.T) {
	ctx, stopServer := context.WithCancel(context.Background())
	c, wait, err := start(ctx, t.TempDir(), slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		stopServer()
		if err == nil {
			err = wait()
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	pool := hostconfig.LoadBalancerPool{Name: "lan", Addresses: []string{"192.0.2.10-192.0.2.12"}}
	stop := c.balance(t, pool)
	ns := c.namespace(t)
	services := c.Client.CoreV1().Services(ns)
	create := func(name string) {
		must(services.Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{}))(t)
	}
	// held are the addresses by service; one that two have fails the test.
	held := func(ctx context.Context) map[string]string {
		list := must(services.List(ctx, metav1.ListOptions{}))(t)
		held, by := map[string]string{}, map[string]string{}
		for _, s := range list.Items {
			for _, in := range s.Status.LoadBalancer.Ingress {
				if other := by[in.IP]; other != "" {
					t.Fatalf("%s and %s both have %s", other, s.Name, in.IP)
				}
				by[in.IP], held[s.Name] = s.Name, in.IP
			}
		}
		return held
	}
	holders := func(n int) map[string]string {
		t.Helper()
		eventually(t, fmt.Sprint(n, " services to have addresses"), func(ctx context.Context) (bool, error) {
			return len(held(ctx)) == n, nil
		})
		return held(t.Context())
	}
	create("a")
	create("b")
	before := holders(2)
	stop()
	create("c")
	create("d")
	stop = c.balance(t, pool)
	after := holders(3)
	if after["a"] != before["a"] || after["b"] != before["b"] {
		t.Errorf("a new leader moved addresses: %v, before %v", after, before)
	}
	gone := func(name string) {
		eventually(t, name+" to be gone", func(ctx context.Context) (bool, error) {
			_, err := services.Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err), err
		})
	}
	// A deleted service stays until its address is free.
	if err := services.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("a")
	if last := holders(3); last["c"] == "" || last["d"] == "" {
		t.Errorf("who waited got nothing: %v", last)
	}
	// Nothing of the finalizer is left once there is no pool any more.
	stop()
	c.balance(t)
	holders(0)
	for _, name := range []string{"b", "c", "d"} {
		if err := services.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		gone(name)
	}
}

// Foreign load balancers write finalizers together with the status.
func TestServiceStatusWritesFinalizers(t *testing.T) {
	c := Start(t)
	services := c.Client.CoreV1().Services(c.namespace(t))
	s := must(services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}))(t)
	s.Finalizers = []string{"service.kubernetes.io/load-balancer-cleanup"}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}}
	s = must(services.UpdateStatus(t.Context(), s, metav1.UpdateOptions{}))(t)
	if len(s.Finalizers) != 1 {
		t.Fatalf("finalizers are %v", s.Finalizers)
	}
	if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s = must(services.Get(t.Context(), "web", metav1.GetOptions{}))(t)
	s.Finalizers = nil
	must(services.UpdateStatus(t.Context(), s, metav1.UpdateOptions{}))(t)
	eventually(t, "the service to be gone", func(ctx context.Context) (bool, error) {
		_, err := services.Get(ctx, "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}
