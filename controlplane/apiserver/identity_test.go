package apiserver

import (
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func TestLeasesOfServersThatAreNoMoreAreRemoved(t *testing.T) {
	now := time.Now()
	made := func(name, identity string, renewed *metav1.MicroTime) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name, Labels: map[string]string{identityLabel: identity}},
			Spec: coordinationv1.LeaseSpec{RenewTime: renewed, LeaseDurationSeconds: ptr.To[int32](60)}}
	}
	long, lately := ptr.To(metav1.NewMicroTime(now.Add(-61*time.Second))), ptr.To(metav1.NewMicroTime(now.Add(-59*time.Second)))
	client := fake.NewClientset(made("gone", identityServer, long), made("never", identityServer, nil), made("there", identityServer, lately), made("other", "other", long))
	s := &Server{client: client}
	if err := s.sweepIdentitiesAt(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	list, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, l := range list.Items {
		left = append(left, l.Name)
	}
	if slices.Sort(left); !slices.Equal(left, []string{"other", "there"}) {
		t.Errorf("left %v", left)
	}
}
