package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/scheduler"
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

// startScheduler runs the scheduler until the test ends.
func (c *Cluster) startScheduler(t *testing.T) {
	t.Helper()
	scheduling := kubernetes.NewForConfigOrDie(c.Server.ClientConfig(user.KubeScheduler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- scheduler.Run(ctx, scheduler.Config{Client: scheduling, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("scheduler ended with %v", err)
		}
	})
}

// testSchedulerBindsVolumes lets the scheduler choose nodes for pods with
// volumes: one that exists on one node, one that is made where its pod goes,
// and one that a pod brings along.
func testSchedulerBindsVolumes(t *testing.T, c *Cluster) {
	client := c.Client
	namespace := freshNamespace(t, client, "placed")
	c.startScheduler(t)
	local, made := namespace+"-static", namespace+"-made"
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	for name, provisioner := range map[string]string{local: volume.NotSupportedProvisioner, made: hostconfig.LocalPathProvisioner} {
		must(client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}, metav1.CreateOptions{}))(t)
	}
	nodes := []string{namespace + "-1", namespace + "-2"}
	for _, name := range nodes {
		must(client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "test": namespace}},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}},
		}, metav1.CreateOptions{}))(t)
	}
	must(client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: local,
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: nodes[1:]}}}}}},
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		for _, name := range nodes {
			_ = client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
		}
		_ = client.CoreV1().PersistentVolumes().Delete(context.Background(), namespace, metav1.DeleteOptions{})
		for _, class := range []string{local, made} {
			_ = client.StorageV1().StorageClasses().Delete(context.Background(), class, metav1.DeleteOptions{})
		}
	})
	pods := client.CoreV1().Pods(namespace)
	place := func(name string, source corev1.VolumeSource) {
		must(pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "c", Image: "web:1"}}, Volumes: []corev1.Volume{{Name: "data", VolumeSource: source}},
				Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, NodeSelector: map[string]string{"test": namespace},
			},
		}, metav1.CreateOptions{}))(t)
	}
	named := func(claim string) corev1.VolumeSource {
		return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}
	}
	place("early", named("made"))
	eventually(t, "a pod to be told of its missing claim", func(ctx context.Context) (bool, error) {
		pod, err := pods.Get(ctx, "early", metav1.GetOptions{})
		if err != nil || len(pod.Status.Conditions) == 0 {
			return false, err
		}
		message := pod.Status.Conditions[0].Message
		return strings.Contains(message, `nodes are available: persistentvolumeclaim "made" not found.`), errors.New(message)
	})
	must(client.CoreV1().PersistentVolumeClaims(namespace).Create(t.Context(), newClaim("made", made, "1Gi"), metav1.CreateOptions{}))(t)
	must(client.CoreV1().PersistentVolumeClaims(namespace).Create(t.Context(), newClaim("static", local, "1Gi"), metav1.CreateOptions{}))(t)
	place("static", named("static"))
	place("own", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: newClaim("", made, "1Gi").Spec}}})
	for pod, claim := range map[string]string{"early": "made", "static": "static", "own": "own-data"} {
		eventually(t, "pod "+pod+" to be placed with its volume", func(ctx context.Context) (bool, error) {
			got, err := pods.Get(ctx, pod, metav1.GetOptions{})
			if err != nil || got.Spec.NodeName == "" {
				return false, fmt.Errorf("%v %v", got.Status.Conditions, err)
			}
			claim, err := client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
			if err != nil || claim.Status.Phase != corev1.ClaimBound {
				t.Fatalf("pod is bound before its claim: %v %v", claim.Status, err)
			}
			v, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
			if err != nil || volume.CheckNodeAffinity(v, map[string]string{corev1.LabelHostname: got.Spec.NodeName}) != nil {
				t.Fatalf("pod on %s, volume %+v (%v)", got.Spec.NodeName, v, err)
			}
			return true, nil
		})
	}
	for _, pod := range []string{"early", "static", "own"} {
		now := int64(0)
		if err := pods.Delete(t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range nodes {
		if err := client.CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.CoreV1().PersistentVolumeClaims(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the made volumes to go", func(ctx context.Context) (bool, error) {
		list, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		for i := range list.Items {
			if list.Items[i].Spec.StorageClassName == made {
				return false, fmt.Errorf("%s: %v", list.Items[i].Name, list.Items[i].Status)
			}
		}
		return err == nil, err
	})
}
