package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/localpath"
	"clusterctl/hostconfig"
)

func claim(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim", UID: "claim"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("manual"),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func ofClass(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func asking(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name }
}

func noted(key, value string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { metav1.SetMetaDataAnnotation(&c.ObjectMeta, key, value) }
}

func pv(name, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "volume"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "manual",
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func boundTo(name, uid string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "ns", Name: name, UID: types.UID(uid)}
		v.Status.Phase = corev1.VolumeBound
	}
}

func policy(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
}

func annotated(key, value string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { metav1.SetMetaDataAnnotation(&v.ObjectMeta, key, value) }
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode,
		ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimDelete)}
}

func byDefault(c *storagev1.StorageClass) *storagev1.StorageClass {
	c.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	return c
}

// setUp starts the informers with objects in them, but no loop.
func setUp(t *testing.T, ask func(context.Context, string, string) error, objects ...runtime.Object) (*controllertest.Fixture, *controller, *record.FakeRecorder) {
	t.Helper()
	f := controllertest.New(t, objects...)
	c, err := newController(f.Env, localpath.NewWith(f.Client, ask))
	if err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(20)
	c.recorder = events
	f.Start(t)
	return f, c, events
}

func said(events *record.FakeRecorder) string {
	var all []string
	for {
		select {
		case e := <-events.Events:
			all = append(all, e)
		default:
			return strings.Join(all, "; ")
		}
	}
}

func TestClaims(t *testing.T) {
	pending := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{
			VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}}}}}
	}
	late := class("late", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer)
	done := noted(volume.AnnBindCompleted, "yes")
	block := func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }
	wide := func(v *corev1.PersistentVolume) {
		v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadOnlyMany)
	}
	for name, test := range map[string]struct {
		claim  *corev1.PersistentVolumeClaim
		others []runtime.Object
		phase  corev1.PersistentVolumeClaimPhase
		bound  string
		event  string
	}{
		"the smallest that is large enough": {claim(), []runtime.Object{pv("small", "500Mi"), pv("large", "3Gi"), pv("right", "2Gi")}, corev1.ClaimBound, "right", ""},
		"fewer modes before less space":     {claim(), []runtime.Object{pv("wide", "1Gi", wide), pv("large", "3Gi")}, corev1.ClaimBound, "large", ""},
		"the one reserved for it":           {claim(), []runtime.Object{pv("right", "1Gi"), pv("reserved", "3Gi", boundTo("claim", ""))}, corev1.ClaimBound, "reserved", ""},
		"not another's":                     {claim(), []runtime.Object{pv("other", "1Gi", boundTo("other", ""))}, corev1.ClaimPending, "", "storageclass.storage.k8s.io \"manual\" not found"},
		"not of another mode":               {claim(), []runtime.Object{pv("block", "1Gi", block)}, corev1.ClaimPending, "", "ProvisioningFailed"},
		"no class, no volume":               {claim(ofClass("")), nil, corev1.ClaimPending, "", "Normal FailedBinding no persistent volumes available for this claim and no storage class is set"},
		"external provisioner":              {claim(ofClass("csi")), []runtime.Object{class("csi", "example.com/csi", storagev1.VolumeBindingImmediate)}, corev1.ClaimPending, "", "Normal ExternalProvisioning Waiting for a volume to be created either by the external provisioner 'example.com/csi' or manually by the system administrator."},
		"no provisioner":                    {claim(ofClass("none")), []runtime.Object{class("none", volume.NotSupportedProvisioner, storagev1.VolumeBindingImmediate)}, corev1.ClaimPending, "", "ProvisioningFailed"},

		"no consumer yet":    {claim(ofClass("late")), []runtime.Object{late, pv("right", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "late" })}, corev1.ClaimPending, "", "Normal WaitForFirstConsumer waiting for first consumer to be created before binding"},
		"a consumer waits":   {claim(ofClass("late")), []runtime.Object{late, pending("pod")}, corev1.ClaimPending, "", "Normal WaitForPodScheduled waiting for pod pod to be scheduled"},
		"consumers wait":     {claim(ofClass("late")), []runtime.Object{late, pending("b"), pending("a")}, corev1.ClaimPending, "", "Normal WaitForPodScheduled waiting for pods a,b to be scheduled"},
		"a node is selected": {claim(ofClass("late"), noted(volume.AnnSelectedNode, "node")), []runtime.Object{late}, corev1.ClaimPending, "", "ExternalProvisioning"},

		"asks for one":             {claim(asking("large")), []runtime.Object{pv("large", "3Gi"), pv("right", "1Gi")}, corev1.ClaimBound, "large", ""},
		"asks for one to come":     {claim(asking("none")), nil, corev1.ClaimPending, "none", ""},
		"asks for a small one":     {claim(asking("small")), []runtime.Object{pv("small", "1Mi")}, corev1.ClaimPending, "small", `Warning VolumeMismatch Cannot bind to requested volume "small": requested PV is too small`},
		"asks for a block volume":  {claim(asking("block")), []runtime.Object{pv("block", "1Gi", block)}, corev1.ClaimPending, "block", "incompatible volumeMode"},
		"asks for another class's": {claim(asking("right"), ofClass("x")), []runtime.Object{pv("right", "1Gi")}, corev1.ClaimPending, "right", "storageClassName does not match"},
		"asks for another's":       {claim(asking("other")), []runtime.Object{pv("other", "1Gi", boundTo("other", "other"))}, corev1.ClaimPending, "other", `Warning FailedBinding volume "other" already bound to a different claim.`},
		"asked and half bound":     {claim(asking("right")), []runtime.Object{pv("right", "1Gi", boundTo("claim", "claim"))}, corev1.ClaimBound, "right", ""},

		"lost its volume":    {claim(done, asking("gone")), nil, corev1.ClaimLost, "gone", "Warning ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!"},
		"lost its reference": {claim(done), nil, corev1.ClaimLost, "", "Warning ClaimLost Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"},
		"misbound":           {claim(done, asking("other")), []runtime.Object{pv("other", "1Gi", boundTo("other", "other"))}, corev1.ClaimLost, "other", "Warning ClaimMisbound Two claims are bound to the same volume, this one is bound incorrectly"},
		"volume lost it":     {claim(done, asking("right")), []runtime.Object{pv("right", "1Gi")}, corev1.ClaimBound, "right", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, c, events := setUp(t, nil, append(test.others, test.claim)...)
			if err := c.syncClaim(t.Context(), "ns/claim"); err != nil {
				t.Fatal(err)
			}
			got, err := f.Client.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "claim", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Status.Phase != test.phase || got.Spec.VolumeName != test.bound {
				t.Errorf("%s of volume %q; want %s of %q", got.Status.Phase, got.Spec.VolumeName, test.phase, test.bound)
			}
			if e := said(events); !strings.Contains(e, test.event) || (test.event == "") != (e == "") {
				t.Errorf("said %q, want %q", e, test.event)
			}
			if test.phase != corev1.ClaimBound {
				return
			}
			v, err := f.Client.CoreV1().PersistentVolumes().Get(t.Context(), test.bound, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			size := got.Status.Capacity[corev1.ResourceStorage]
			if v.Spec.ClaimRef.UID != got.UID || v.Status.Phase != corev1.VolumeBound || got.Annotations[volume.AnnBindCompleted] == "" ||
				size.Cmp(v.Spec.Capacity[corev1.ResourceStorage]) != 0 || !slices.Equal(got.Status.AccessModes, v.Spec.AccessModes) {
				t.Errorf("claim %+v of volume %+v", got, v)
			}
		})
	}
}

// A claim that named no class gets the newest default one once there is one.
func TestDefaultClassComesLate(t *testing.T) {
	old, new := byDefault(class("old", "a/b", storagev1.VolumeBindingImmediate)), byDefault(class("new", "a/b", storagev1.VolumeBindingImmediate))
	new.CreationTimestamp = metav1.Now()
	f, c, _ := setUp(t, nil, claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }), old, new)
	if err := c.syncClaim(t.Context(), "ns/claim"); err != nil {
		t.Fatal(err)
	}
	got, err := f.Client.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "claim", metav1.GetOptions{})
	if err != nil || ptr.Deref(got.Spec.StorageClassName, "") != "new" {
		t.Errorf("class %v, error %v", got.Spec.StorageClassName, err)
	}
}

func localVolume(change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := pv("local", "1Gi", append([]func(*corev1.PersistentVolume){
		boundTo("gone", "gone"), policy(corev1.PersistentVolumeReclaimDelete),
		annotated(volume.AnnDynamicallyProvisioned, localpath.Name), annotated(hostconfig.LocalPathNode, "node"),
	}, change...)...)
	v.Finalizers = []string{volume.PVDeletionInTreeProtectionFinalizer}
	v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path.Join(hostconfig.LocalPathDir, v.Name)}}
	return v
}

func TestVolumes(t *testing.T) {
	elsewhere := claim(asking("elsewhere"))
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	busy := apierrors.NewGenericServerResponse(http.StatusConflict, "delete", schema.GroupResource{}, "", "", 0, true)
	for name, test := range map[string]struct {
		volume *corev1.PersistentVolume
		others []runtime.Object
		answer error // of the node
		phase  corev1.PersistentVolumePhase
		fails  bool
		event  string
		check  func(*corev1.PersistentVolume) error
	}{
		"new":                 {volume: pv("v", "1Gi", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumePending }), phase: corev1.VolumeAvailable},
		"reserved":            {volume: pv("v", "1Gi", boundTo("claim", "")), phase: corev1.VolumeAvailable},
		"bound":               {volume: pv("v", "1Gi", boundTo("claim", "claim")), others: []runtime.Object{claim(asking("v"))}, phase: corev1.VolumeBound},
		"retained":            {volume: pv("v", "1Gi", boundTo("gone", "gone")), phase: corev1.VolumeReleased},
		"another of the name": {volume: pv("v", "1Gi", boundTo("claim", "older")), others: []runtime.Object{claim()}, phase: corev1.VolumeReleased},
		"external": {volume: pv("v", "1Gi", boundTo("gone", "gone"), policy(corev1.PersistentVolumeReclaimDelete), annotated(volume.AnnDynamicallyProvisioned, "example.com/csi")),
			phase: corev1.VolumeReleased},
		"nobody deletes": {volume: pv("v", "1Gi", boundTo("gone", "gone"), policy(corev1.PersistentVolumeReclaimDelete)), phase: corev1.VolumeFailed, event: "Warning VolumeFailedDelete"},
		"recycle":        {volume: pv("v", "1Gi", boundTo("gone", "gone"), policy(corev1.PersistentVolumeReclaimRecycle)), phase: corev1.VolumeFailed, event: "Warning VolumeFailedRecycle No recycler plugin found for the volume!"},
		"unknown policy": {volume: pv("v", "1Gi", boundTo("gone", "gone"), policy("Odd")), phase: corev1.VolumeFailed, event: "Warning VolumeUnknownReclaimPolicy"},
		"not needed": {volume: pv("v", "1Gi", boundTo("claim", "claim"), annotated(volume.AnnBoundByController, "yes")), others: []runtime.Object{elsewhere}, phase: corev1.VolumeAvailable,
			check: func(v *corev1.PersistentVolume) error {
				if v.Spec.ClaimRef != nil || v.Annotations[volume.AnnBoundByController] != "" {
					return fmt.Errorf("still bound: %v", v)
				}
				return nil
			}},
		"not needed but reserved": {volume: pv("v", "1Gi", boundTo("claim", "claim")), others: []runtime.Object{elsewhere}, phase: corev1.VolumeAvailable,
			check: func(v *corev1.PersistentVolume) error {
				if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != "" || v.Spec.ClaimRef.Name != "claim" {
					return fmt.Errorf("claim %v", v.Spec.ClaimRef)
				}
				return nil
			}},
		"modes differ": {volume: pv("v", "1Gi", boundTo("claim", "claim"), func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }),
			others: []runtime.Object{claim()}, phase: corev1.VolumeBound, event: "due to incompatible volumeMode."},

		"local":                {volume: localVolume(), others: []runtime.Object{node}},
		"local of a gone node": {volume: localVolume(), answer: errors.New("no route")},
		"local in use":         {volume: localVolume(), others: []runtime.Object{node}, answer: busy, phase: corev1.VolumeReleased, fails: true, event: "Normal VolumeDelete"},
		"local out of reach":   {volume: localVolume(), others: []runtime.Object{node}, answer: errors.New("no route"), phase: corev1.VolumeFailed, fails: true, event: "Warning VolumeFailedDelete remove directory on node node: no route"},
		"local elsewhere": {volume: localVolume(func(v *corev1.PersistentVolume) { v.Annotations[hostconfig.LocalPathNode] = "" }), others: []runtime.Object{node},
			phase: corev1.VolumeFailed, fails: true, event: "is not one that"},
		"local retained": {volume: localVolume(policy(corev1.PersistentVolumeReclaimRetain)), phase: corev1.VolumeBound, check: func(v *corev1.PersistentVolume) error {
			if len(v.Finalizers) > 0 {
				return fmt.Errorf("finalizers %v", v.Finalizers)
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			f, c, events := setUp(t, func(_ context.Context, node, volume string) error {
				asked = node == "node" && volume == test.volume.Name
				return test.answer
			}, append(test.others, test.volume)...)
			if err := c.syncVolume(t.Context(), test.volume.Name); (err != nil) != test.fails {
				t.Fatal(err)
			}
			if e := said(events); !strings.Contains(e, test.event) || (test.event == "") != (e == "") {
				t.Errorf("said %q, want %q", e, test.event)
			}
			got, err := f.Client.CoreV1().PersistentVolumes().Get(t.Context(), test.volume.Name, metav1.GetOptions{})
			if test.phase == "" {
				if !apierrors.IsNotFound(err) || !asked {
					t.Errorf("volume %v, error %v, the node was asked: %v", got, err, asked)
				}
				return
			}
			if err != nil || got.Status.Phase != test.phase {
				t.Fatalf("phase %s, error %v; want %s", got.Status.Phase, err, test.phase)
			}
			if test.check != nil {
				if err := test.check(got); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestProvisionsOnTheChosenNode(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{corev1.LabelHostname: "host"}}}
	local := class("local-path", localpath.Name, storagev1.VolumeBindingWaitForFirstConsumer)
	chosen := noted(volume.AnnSelectedNode, "node")
	f, c, events := setUp(t, nil, node, local, claim(ofClass("local-path"), chosen))
	if err := c.syncClaim(t.Context(), "ns/claim"); err != nil {
		t.Fatal(err)
	}
	v, err := f.Client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-claim", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.CheckNodeAffinity(v, node.Labels); err != nil || v.Spec.ClaimRef.UID != "claim" || v.Spec.StorageClassName != "local-path" ||
		v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || v.Spec.Local.Path != hostconfig.LocalPathDir+"/pvc-claim" ||
		!slices.Contains(v.Finalizers, volume.PVDeletionInTreeProtectionFinalizer) {
		t.Errorf("made %+v, affinity %v", v, err)
	}
	if volume.CheckNodeAffinity(v, map[string]string{corev1.LabelHostname: "other"}) == nil {
		t.Error("fits another node")
	}
	if e := said(events); e != "Normal ProvisioningSucceeded Successfully provisioned volume pvc-claim using "+localpath.Name {
		t.Errorf("said %q", e)
	}
	for name, change := range map[string]func(*corev1.PersistentVolumeClaim){
		"many nodes": func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		},
		"block":        func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) },
		"no such node": noted(volume.AnnSelectedNode, "gone"),
		"data source": func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "x"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, c, events := setUp(t, nil, node, local, claim(ofClass("local-path"), chosen, change))
			if err := c.syncClaim(t.Context(), "ns/claim"); err == nil {
				t.Error("no error")
			}
			if e := said(events); !strings.Contains(e, "Warning ProvisioningFailed Failed to provision volume with StorageClass") {
				t.Errorf("said %q", e)
			}
			if got, err := f.Client.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "claim", metav1.GetOptions{}); err != nil || volume.IsDelayBindingProvisioning(got) {
				t.Errorf("still for node %v, error %v", got.Annotations, err)
			}
		})
	}
}
