package ephemeralvolume

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestMakesClaimsOfPods(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "pod"},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{
			{Name: "plain"},
			{Name: "data", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
				Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("fast")},
			}}}},
		}},
	}
	leaving := pod.DeepCopy()
	leaving.Name, leaving.UID, leaving.DeletionTimestamp = "leaving", "leaving", ptr.To(metav1.Now())
	taken := pod.DeepCopy()
	taken.Name, taken.UID = "taken", "taken"
	foreign := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "taken-data"}}
	f := controllertest.New(t, pod, leaving, taken, foreign)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	claims := f.Client.CoreV1().PersistentVolumeClaims("ns")
	owned := func(name string, pod *corev1.Pod) func() bool {
		return func() bool {
			claim, err := claims.Get(t.Context(), name, metav1.GetOptions{})
			return err == nil && metav1.IsControlledBy(claim, pod) && claim.Labels["a"] == "b" &&
				claim.Annotations["c"] == "d" && *claim.Spec.StorageClassName == "fast"
		}
	}
	controllertest.Eventually(t, "the pod's claim", owned("pod-data", pod))
	if owned("taken-data", taken)() {
		t.Error("a claim of somebody else was taken over")
	}
	if err := claims.Delete(t.Context(), "taken-data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the claim to replace the foreign one", owned("taken-data", taken))
	if err := claims.Delete(t.Context(), "pod-data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the deleted claim to be made again", owned("pod-data", pod))
	if owned("leaving-data", leaving)() {
		t.Error("a pod that is being deleted got a claim")
	}
}
