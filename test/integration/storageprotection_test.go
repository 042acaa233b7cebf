package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// testClaimInUse deletes a claim under a running pod: it goes after the pod.
func testClaimInUse(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "claim")
	playNode(t, client, namespace)
	claims, pods := client.CoreV1().PersistentVolumeClaims(namespace), client.CoreV1().Pods(namespace)
	for _, name := range []string{"used", "unused"} {
		claim := must(claims.Create(t.Context(), &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("none"),
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		}, metav1.CreateOptions{}))(t)
		if !slices.Contains(claim.Finalizers, "kubernetes.io/pvc-protection") {
			t.Fatalf("claim %s is made with finalizers %v", name, claim.Finalizers)
		}
	}
	must(pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "user"},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "web:1"}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "used"}}}},
		},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "the pod to run", func(ctx context.Context) (bool, error) {
		pod, err := pods.Get(ctx, "user", metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning, err
	})
	gone := func(name string) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			claim, err := claims.Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err), fmt.Errorf("finalizers %v, error %v", claim.Finalizers, err)
		}
	}
	// The unused one is deleted last: once it is gone, the other had its turn.
	for _, name := range []string{"used", "unused"} {
		if err := claims.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the unused claim to go", gone("unused"))
	time.Sleep(100 * time.Millisecond)
	if claim := must(claims.Get(t.Context(), "used", metav1.GetOptions{}))(t); claim.DeletionTimestamp == nil {
		t.Error("the used claim is not being deleted")
	}
	if err := pods.Delete(t.Context(), "user", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the claim to follow its pod", gone("used"))
}
