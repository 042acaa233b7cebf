package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/hostconfig"
)

func newClaim(name, class, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(class),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
}

// testClaimsShareNoVolume makes more claims than volumes at once: as many are
// bound as can be, each to a volume of its own that is large enough.
func testClaimsShareNoVolume(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "volumes")
	const volumes, claims = 12, 16
	class := namespace
	for i := range claims {
		if i < volumes {
			v := must(client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", namespace, i)},
				Spec: corev1.PersistentVolumeSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
					Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(fmt.Sprintf("%dGi", i%3+1))},
					PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
				},
			}, metav1.CreateOptions{}))(t)
			t.Cleanup(func() {
				_ = client.CoreV1().PersistentVolumes().Delete(context.Background(), v.Name, metav1.DeleteOptions{})
			})
		}
		must(client.CoreV1().PersistentVolumeClaims(namespace).Create(t.Context(), newClaim(fmt.Sprintf("claim-%d", i), class, "1Gi"), metav1.CreateOptions{}))(t)
	}
	eventually(t, "every volume to be bound", func(ctx context.Context) (bool, error) {
		list, err := client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		taken := map[string]string{}
		for i := range list.Items {
			claim := &list.Items[i]
			if claim.Status.Phase != corev1.ClaimBound {
				continue
			}
			if other := taken[claim.Spec.VolumeName]; other != "" {
				t.Fatalf("claims %s and %s share volume %s", other, claim.Name, claim.Spec.VolumeName)
			}
			taken[claim.Spec.VolumeName] = claim.Name
			v, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
			if err != nil || v.Spec.ClaimRef.UID != claim.UID || v.Status.Phase != corev1.VolumeBound {
				t.Fatalf("claim %s is bound, its volume is %+v %+v (%v)", claim.Name, v.Spec.ClaimRef, v.Status, err)
			}
		}
		return len(taken) == volumes, fmt.Errorf("%d of %d volumes are taken", len(taken), volumes)
	})
}

// testLocalPathVolume takes a claim through its life as scheduler and node
// agent would: chosen node, volume, binding, and removal with its node gone.
func testLocalPathVolume(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "localpath")
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	class := must(client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: namespace}, Provisioner: hostconfig.LocalPathProvisioner, VolumeBindingMode: &mode,
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = client.StorageV1().StorageClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{})
	})
	node := must(client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{corev1.LabelHostname: namespace}}}, metav1.CreateOptions{}))(t)
	claims, volumes := client.CoreV1().PersistentVolumeClaims(namespace), client.CoreV1().PersistentVolumes()
	claim := must(claims.Create(t.Context(), newClaim("data", class.Name, "1Gi"), metav1.CreateOptions{}))(t)
	eventually(t, "the claim to wait for a consumer", func(ctx context.Context) (bool, error) {
		events, err := client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=data,reason=WaitForFirstConsumer"})
		return err == nil && len(events.Items) > 0, err
	})
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, volume.AnnSelectedNode, node.Name)
	must(claims.Patch(t.Context(), "data", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}))(t)
	eventually(t, "the claim to be bound", func(ctx context.Context) (bool, error) {
		var err error
		claim, err = claims.Get(ctx, "data", metav1.GetOptions{})
		return err == nil && claim.Status.Phase == corev1.ClaimBound, err
	})
	v := must(volumes.Get(t.Context(), claim.Spec.VolumeName, metav1.GetOptions{}))(t)
	if !strings.HasPrefix(v.Spec.Local.Path, hostconfig.LocalPathDir+"/") || volume.CheckNodeAffinity(v, node.Labels) != nil {
		t.Errorf("volume %+v", v.Spec)
	}
	// A user who deletes the volume takes no data from the claim.
	if err := volumes.Delete(t.Context(), v.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Nodes().Delete(t.Context(), node.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if v = must(volumes.Get(t.Context(), v.Name, metav1.GetOptions{}))(t); v.DeletionTimestamp == nil || v.Status.Phase != corev1.VolumeBound {
		t.Errorf("deleted volume of a living claim: %+v", v)
	}
	if err := claims.Delete(t.Context(), "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume to go after its claim", func(ctx context.Context) (bool, error) {
		v, err := volumes.Get(ctx, v.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), errors.Join(err, fmt.Errorf("%v %v", v.Finalizers, v.Status))
	})
}
