package volumeexpand

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestSaysWhoExpands(t *testing.T) {
	storage := func(size string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
	claim := func(name string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "claim"},
			Spec:   corev1.PersistentVolumeClaimSpec{VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: storage("1Gi")}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	}
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{Capacity: storage("2Gi"), ClaimRef: &corev1.ObjectReference{UID: "claim"}}}
	f := controllertest.New(t, claim("roomy"), claim("full"), v)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	for name, size := range map[string]string{"roomy": "2Gi", "full": "3Gi"} {
		grown := claim(name)
		grown.Spec.Resources.Requests = storage(size)
		if _, err := f.Client.CoreV1().PersistentVolumeClaims("ns").Update(t.Context(), grown, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	told := map[string]bool{}
	controllertest.Eventually(t, "an event", func() bool {
		events, err := f.Client.CoreV1().Events("ns").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Reason == "ExternalExpanding" {
				told[e.InvolvedObject.Name] = true
			}
		}
		return told["full"]
	})
	if told["roomy"] {
		t.Error("a volume that is large enough has to grow")
	}
}
