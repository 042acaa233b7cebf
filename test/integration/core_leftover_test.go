package integration

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestServiceTakesUpItsOwnLeftAddress covers a creation that was cut off after
// it had taken its cluster IP and before the service was stored.
func TestServiceTakesUpItsOwnLeftAddress(t *testing.T) {
	client := Start(t).Client
	namespace := must(client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "leftover-"}}, metav1.CreateOptions{}))(t).Name
	const ip = "10.96.0.77"
	must(client.NetworkingV1().IPAddresses().Create(t.Context(), &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: "mine"}},
	}, metav1.CreateOptions{}))(t)
	service := func(name string) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
		}
	}
	if _, err := client.CoreV1().Services(namespace).Create(t.Context(), service("another"), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another service got the address: %v", err)
	}
	must(client.CoreV1().Services(namespace).Create(t.Context(), service("mine"), metav1.CreateOptions{}))(t)
	if _, err := client.CoreV1().Services(namespace).Create(t.Context(), service("mine"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("creating it again gives %v", err)
	}
	must(client.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{}))(t)
	if err := client.CoreV1().Services(namespace).Delete(t.Context(), "mine", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the service's end its address is still held: %v", err)
	}
}
