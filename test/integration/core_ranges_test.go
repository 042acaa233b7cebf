package integration

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func serviceAt(name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
}

// testServiceRange follows a ServiceCIDR to its end, which a service holds up.
// Controllers have to run.
func testServiceRange(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "ranges")
	services, cidrs, addresses := client.CoreV1().Services(namespace), client.NetworkingV1().ServiceCIDRs(), client.NetworkingV1().IPAddresses()
	if _, err := services.Create(t.Context(), serviceAt("early", "10.100.0.5"), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a service outside of every range: %v", err)
	}
	must(cidrs.Create(t.Context(), &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.100.0.0/28"}},
	}, metav1.CreateOptions{}))(t)
	ready := func(status metav1.ConditionStatus, reason string) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			c, err := cidrs.Get(ctx, "more", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			condition := meta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
			return condition != nil && condition.Status == status && condition.Reason == reason && len(c.Finalizers) == 1, nil
		}
	}
	eventually(t, "the range to be ready", ready(metav1.ConditionTrue, ""))
	eventually(t, "a service in the range", func(ctx context.Context) (bool, error) {
		_, err := services.Create(ctx, serviceAt("web", "10.100.0.5"), metav1.CreateOptions{})
		return err == nil, err
	})

	// An address that is lost is made again, and belongs to the same service.
	if err := addresses.Delete(t.Context(), "10.100.0.5", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service's address", func(ctx context.Context) (bool, error) {
		a, err := addresses.Get(ctx, "10.100.0.5", metav1.GetOptions{})
		return err == nil && a.Spec.ParentRef.Name == "web" && a.Labels[networkingv1.LabelManagedBy] == "ipallocator.k8s.io", err
	})
	eventually(t, "the event about it", func(ctx context.Context) (bool, error) {
		list, err := client.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, e := range list.Items {
			if e.Reason == "ClusterIPNotAllocated" && e.Regarding.Name == "web" && e.Note == "Cluster IP [IPv4]: 10.100.0.5 is not allocated; repairing" {
				return true, nil
			}
		}
		return false, nil
	})

	if err := cidrs.Delete(t.Context(), "more", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the range to stay for its service", ready(metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating))
	eventually(t, "the range to be closed to others", func(ctx context.Context) (bool, error) {
		_, err := services.Create(ctx, serviceAt("late", "10.100.0.6"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "not in the valid range"), err
	})
	if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the range to go with it", func(ctx context.Context) (bool, error) {
		_, err := cidrs.Get(ctx, "more", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}
