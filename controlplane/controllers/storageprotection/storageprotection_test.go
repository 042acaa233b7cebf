package storageprotection

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/reconcile"
)

const other = "example.com/other"

func meta(name, finalizer string, deleted bool) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Finalizers: []string{other, finalizer}}
	if deleted {
		m.DeletionTimestamp = ptr.To(metav1.Now())
	}
	return m
}

func testClaim(deleted bool) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: meta("pod-data", claimFinalizer, deleted)}
	c.Namespace = "ns"
	return c
}

func testVolume(phase corev1.PersistentVolumePhase, deleted bool) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: meta("volume", volumeFinalizer, deleted), Status: corev1.PersistentVolumeStatus{Phase: phase}}
}

func testClass(deleted bool) *storagev1.VolumeAttributesClass {
	return &storagev1.VolumeAttributesClass{ObjectMeta: meta("class", classFinalizer, deleted)}
}

func byName(claim string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}
}

func testPod(phase corev1.PodPhase, source corev1.VolumeSource) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "ns", UID: "pod"},
		Spec:       corev1.PodSpec{NodeName: "node", Volumes: []corev1.Volume{{Name: "data", VolumeSource: source}}},
		Status:     corev1.PodStatus{Phase: phase},
	}
}

func ownedClaim() *corev1.PersistentVolumeClaim {
	c := testClaim(true)
	c.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "pod", UID: "pod", Controller: ptr.To(true)}}
	return c
}

func finalizers(t *testing.T, client kubernetes.Interface, obj runtime.Object) []string {
	t.Helper()
	ctx := context.Background()
	var now metav1.Object
	var err error
	switch obj.(type) {
	case *corev1.PersistentVolumeClaim:
		now, err = client.CoreV1().PersistentVolumeClaims("ns").Get(ctx, "pod-data", metav1.GetOptions{})
	case *corev1.PersistentVolume:
		now, err = client.CoreV1().PersistentVolumes().Get(ctx, "volume", metav1.GetOptions{})
	default:
		now, err = client.StorageV1().VolumeAttributesClasses().Get(ctx, "class", metav1.GetOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return now.GetFinalizers()
}

func TestReconcile(t *testing.T) {
	ephemeral := corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
	ended := testPod(corev1.PodRunning, ephemeral)
	ended.DeletionTimestamp, ended.DeletionGracePeriodSeconds = ptr.To(metav1.Now()), ptr.To[int64](0)
	endedByName := testPod(corev1.PodRunning, byName("pod-data"))
	endedByName.ObjectMeta = *ended.ObjectMeta.DeepCopy()
	elsewhere := testPod(corev1.PodRunning, byName("pod-data"))
	elsewhere.Namespace = "elsewhere"
	waiting := testPod(corev1.PodPending, byName("pod-data"))
	waiting.Spec.NodeName = ""
	claimOfClass := func(spec corev1.PersistentVolumeClaimSpec, status corev1.PersistentVolumeClaimStatus) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "claim", Namespace: "ns"}, Spec: spec, Status: status}
	}
	for name, test := range map[string]struct {
		obj   runtime.Object
		other runtime.Object // what may use it, or nil
		keeps bool
	}{
		"claim":                             {obj: testClaim(true)},
		"claim not deleted":                 {obj: testClaim(false), keeps: true},
		"claim of a running pod":            {testClaim(true), testPod(corev1.PodRunning, byName("pod-data")), true},
		"claim of a pending pod":            {testClaim(true), testPod(corev1.PodPending, byName("pod-data")), true},
		"claim of a pod being deleted":      {testClaim(true), endedByName, true},
		"claim of a pod without a node":     {testClaim(true), waiting, false},
		"claim of a succeeded pod":          {testClaim(true), testPod(corev1.PodSucceeded, byName("pod-data")), true},
		"claim of a failed pod":             {testClaim(true), testPod(corev1.PodFailed, byName("pod-data")), true},
		"another claim's pod":               {testClaim(true), testPod(corev1.PodRunning, byName("another")), false},
		"pod without claims":                {testClaim(true), testPod(corev1.PodRunning, corev1.VolumeSource{}), false},
		"another namespace's pod":           {testClaim(true), elsewhere, false},
		"ephemeral claim":                   {ownedClaim(), testPod(corev1.PodRunning, ephemeral), true},
		"ephemeral claim's name only":       {testClaim(true), testPod(corev1.PodRunning, ephemeral), false},
		"ephemeral claim of a finished pod": {ownedClaim(), testPod(corev1.PodSucceeded, ephemeral), true},
		"ephemeral claim of an ended pod":   {ownedClaim(), ended, false},

		"available volume":   {obj: testVolume(corev1.VolumeAvailable, true)},
		"released volume":    {obj: testVolume(corev1.VolumeReleased, true)},
		"bound volume":       {obj: testVolume(corev1.VolumeBound, true), keeps: true},
		"volume not deleted": {obj: testVolume(corev1.VolumeAvailable, false), keeps: true},

		"class":             {obj: testClass(true)},
		"class not deleted": {obj: testClass(false), keeps: true},
		"class of a volume": {testClass(true), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: ptr.To("class")}}, true},
		"class of a claim":  {testClass(true), claimOfClass(corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("class")}, corev1.PersistentVolumeClaimStatus{}), true},
		"class a claim still has": {testClass(true), claimOfClass(corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("next")},
			corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: ptr.To("class")}), true},
		"class a claim goes to": {testClass(true), claimOfClass(corev1.PersistentVolumeClaimSpec{},
			corev1.PersistentVolumeClaimStatus{ModifyVolumeStatus: &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "class"}}), true},
		"another class's claim": {testClass(true), claimOfClass(corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("another")}, corev1.PersistentVolumeClaimStatus{}), false},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []runtime.Object{test.obj}
			if test.other != nil {
				objects = append(objects, test.other)
			}
			f := controllertest.New(t, objects...)
			claims, volumes, classes := claimProtection(f.Env), volumeProtection(f.Env), classProtection(f.Env)
			f.Start(t)
			var err error
			switch test.obj.(type) {
			case *corev1.PersistentVolumeClaim:
				err = claims.reconcile(t.Context(), "ns/pod-data")
			case *corev1.PersistentVolume:
				err = volumes.reconcile(t.Context(), "volume")
			default:
				err = classes.reconcile(t.Context(), "class")
			}
			if err != nil {
				t.Fatal(err)
			}
			left := finalizers(t, f.Client, test.obj)
			if !slices.Contains(left, other) || (len(left) == 2) != test.keeps {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestUnprotected(t *testing.T) {
	bare := testVolume(corev1.VolumeAvailable, false)
	bare.Finalizers = nil
	f := controllertest.New(t, bare)
	volumes := volumeProtection(f.Env)
	f.Start(t)
	if err := volumes.reconcile(t.Context(), "volume"); err != nil {
		t.Fatal(err)
	}
	if now := finalizers(t, f.Client, bare); !slices.Equal(now, []string{volumeFinalizer}) {
		t.Errorf("finalizers %v", now)
	}
}

// A pod that only the API server shows keeps its claim, and the claim is tried
// again: no event of that pod need come.
func TestClaimOfAPodThatTheCacheLacks(t *testing.T) {
	f := controllertest.New(t, testClaim(true))
	claims := claimProtection(f.Env)
	f.Start(t)
	f.Client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &corev1.PodList{Items: []corev1.Pod{*testPod(corev1.PodRunning, byName("pod-data"))}}, nil
	})
	if err := claims.reconcile(t.Context(), "ns/pod-data"); !errors.Is(err, reconcile.ErrStale) {
		t.Errorf("got %v", err)
	}
	if left := finalizers(t, f.Client, testClaim(true)); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

func TestGoesWithItsLastUser(t *testing.T) {
	user := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "user", Namespace: "ns"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("class")}}
	pod := testPod(corev1.PodRunning, byName("pod-data"))
	volume := testVolume(corev1.VolumeBound, true)
	f := controllertest.New(t, testClaim(true), pod, volume, testClass(true), user)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	for _, step := range []struct {
		obj  runtime.Object
		free func(ctx context.Context) error
	}{
		{testClaim(true), func(ctx context.Context) error {
			return f.Client.CoreV1().Pods("ns").Delete(ctx, "pod", metav1.DeleteOptions{})
		}},
		{volume, func(ctx context.Context) error {
			released := volume.DeepCopy()
			released.Status.Phase = corev1.VolumeReleased
			released.ResourceVersion = ""
			_, err := f.Client.CoreV1().PersistentVolumes().UpdateStatus(ctx, released, metav1.UpdateOptions{})
			return err
		}},
		{testClass(true), func(ctx context.Context) error {
			changed := user.DeepCopy()
			changed.Spec.VolumeAttributesClassName = nil
			changed.ResourceVersion = ""
			_, err := f.Client.CoreV1().PersistentVolumeClaims("ns").Update(ctx, changed, metav1.UpdateOptions{})
			return err
		}},
	} {
		if left := finalizers(t, f.Client, step.obj); len(left) != 2 {
			t.Fatalf("%T: left %v while in use", step.obj, left)
		}
		if err := step.free(t.Context()); err != nil {
			t.Fatal(err)
		}
		controllertest.Eventually(t, "the finalizer to go", func() bool {
			return slices.Equal(finalizers(t, f.Client, step.obj), []string{other})
		})
	}
}
