package attachdetach

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/reconcile"
)

const driver = "example.com/csi"

func testVolume(mode corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{mode}, ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "c", UID: "c"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "h"}}}}
}

func testClaim() *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "c"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
}

func testPod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{
		Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}}}
}

func testNode(name string, inUse ...corev1.UniqueVolumeName) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{VolumesInUse: inUse}}
}

type world struct {
	*controllertest.Fixture
	t *testing.T
}

func (w world) attachment(node string) *storagev1.VolumeAttachment {
	w.t.Helper()
	a, err := w.Client.StorageV1().VolumeAttachments().Get(w.t.Context(), attachmentName(testVolume("").Spec.CSI, node), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// report has a node's agent say what it uses.
func (w world) report(name string, inUse ...corev1.UniqueVolumeName) {
	w.t.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := w.Client.CoreV1().Nodes().Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		node = node.DeepCopy()
		node.Status.VolumesInUse = inUse
		_, err = w.Client.CoreV1().Nodes().UpdateStatus(w.t.Context(), node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestAttachesAndDetaches(t *testing.T) {
	unique := uniqueName(testVolume("").Spec.CSI)
	f := controllertest.New(t, testVolume(corev1.ReadWriteOnce), testClaim(), testPod("one", "a"), testNode("a"), testNode("b"))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	w := world{f, t}
	controllertest.Eventually(t, "the attachment to node a", func() bool {
		a := w.attachment("a")
		return a != nil && a.Spec.Attacher == driver && a.Spec.NodeName == "a" && *a.Spec.Source.PersistentVolumeName == "v"
	})
	a := w.attachment("a").DeepCopy()
	a.Status.Attached = true
	if _, err := f.Client.StorageV1().VolumeAttachments().UpdateStatus(t.Context(), a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "node a to show the volume", func() bool {
		node, err := f.Client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(node.Status.VolumesAttached) == 1 && node.Status.VolumesAttached[0].Name == unique
	})
	w.report("a", unique)
	controllertest.Eventually(t, "the informer to show that the volume is in use", func() bool {
		n, err := f.Env.Informers.Core().V1().Nodes().Lister().Get("a")
		return err == nil && len(n.Status.VolumesInUse) == 1
	})
	// The pod moves by force: node a still uses the volume.
	if err := f.Client.CoreV1().Pods("ns").Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Client.CoreV1().Pods("ns").Create(t.Context(), testPod("two", "b"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the second pod to be told that it waits", func() bool {
		events, err := f.Client.CoreV1().Events("ns").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Reason == "FailedAttachVolume" && e.InvolvedObject.Name == "two" &&
				e.Message == `Multi-Attach error for volume "v" Volume is already exclusively attached to one node and can't be attached to another` {
				return true
			}
		}
		return false
	})
	if w.attachment("a") == nil || w.attachment("b") != nil {
		t.Fatalf("attached to a: %v, to b: %v", w.attachment("a"), w.attachment("b"))
	}
	w.report("a")
	controllertest.Eventually(t, "the volume to move", func() bool { return w.attachment("a") == nil && w.attachment("b") != nil })
}

// An attachment goes when its driver comes to do without, though a pod runs: at
// once where the agent does not use the volume, else as soon as it says so.
func TestDriversComeToDoWithoutAttaching(t *testing.T) {
	unique := uniqueName(testVolume("").Spec.CSI)
	for name, inUse := range map[string][]corev1.UniqueVolumeName{"unused": nil, "in use": {unique}} {
		t.Run(name, func(t *testing.T) {
			f := controllertest.New(t, testVolume(corev1.ReadWriteOnce), testClaim(), testPod("one", "a"), testNode("a", inUse...))
			c, err := New(f.Env)
			if err != nil {
				t.Fatal(err)
			}
			f.Start(t, c)
			w := world{f, t}
			controllertest.Eventually(t, "the attachment", func() bool { return w.attachment("a") != nil })
			if _, err := f.Client.StorageV1().CSIDrivers().Create(t.Context(), &storagev1.CSIDriver{
				ObjectMeta: metav1.ObjectMeta{Name: driver}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if inUse != nil {
				controllertest.Eventually(t, "the informer to show the driver", func() bool {
					_, err := f.Env.Informers.Storage().V1().CSIDrivers().Lister().Get(driver)
					return err == nil
				})
				if w.attachment("a") == nil {
					t.Fatal("detached while it is used")
				}
				w.report("a")
			}
			controllertest.Eventually(t, "the attachment to go", func() bool { return w.attachment("a") == nil })
		})
	}
}

// A node that is not ready gets some minutes to give a volume up, one that is
// ready all the time it takes.
func TestForcedDetach(t *testing.T) {
	unique := uniqueName(testVolume("").Spec.CSI)
	node := testNode("a", unique)
	c := &controller{unasked: map[string]time.Time{}}
	env := controllertest.New(t).Env
	c.loop = reconcile.NewLoop(env, "attachdetach", 1, c.reconcile)
	start := time.Unix(1e9, 0)
	at := func(d time.Duration) { c.now = func() time.Time { return start.Add(d) } }
	for _, step := range []struct {
		after time.Duration
		ready corev1.ConditionStatus
		want  bool
	}{
		{0, corev1.ConditionTrue, true}, {time.Hour, corev1.ConditionTrue, true}, {time.Hour, corev1.ConditionUnknown, false},
	} {
		at(step.after)
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: step.ready}}
		if got := c.inUse("x", unique, node); got != step.want {
			t.Errorf("after %s, ready %s: in use %v", step.after, step.ready, got)
		}
	}
	// Once somebody wanted it, the time begins anew.
	c.asked("x")
	if !c.inUse("x", unique, node) {
		t.Error("the time has not begun anew")
	}
	at(time.Hour + patience)
	if !c.inUse("x", unique, node) {
		t.Error("given up too early")
	}
	at(time.Hour + patience + time.Second)
	if c.inUse("x", unique, node) {
		t.Error("not given up in time")
	}
}

func TestUsersElsewhere(t *testing.T) {
	f := controllertest.New(t, testVolume(corev1.ReadWriteOnce), testClaim(), testPod("one", "b"), testPod("two", "a"), testNode("a"), testNode("b"),
		&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: attachmentName(testVolume("").Spec.CSI, "b")}, Spec: storagev1.VolumeAttachmentSpec{
			NodeName: "b", Attacher: driver, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("v")}}})
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "the event", func() bool {
		events, err := f.Client.CoreV1().Events("ns").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == "two" && e.Message == `Multi-Attach error for volume "v" Volume is already used by pod(s) one`
		})
	})
}

func TestEnded(t *testing.T) {
	now := metav1.Now()
	running := []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	over := []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	for name, test := range map[string]struct {
		pod  corev1.Pod
		want bool
	}{
		"runs":      {corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: running}}, false},
		"restarts":  {corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: over}}, false},
		"succeeded": {corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, true},
		"ends":      {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{ContainerStatuses: running}}, false},
		"ended":     {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{ContainerStatuses: over}}, true},
	} {
		if got := ended(&test.pod); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestReconcile(t *testing.T) {
	unique := uniqueName(testVolume("").Spec.CSI)
	attached := func(node string) *storagev1.VolumeAttachment {
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: attachmentName(testVolume("").Spec.CSI, node)}, Spec: storagev1.VolumeAttachmentSpec{
			NodeName: node, Attacher: driver, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("v")}}}
	}
	down := testNode("a", unique)
	down.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	finished := testPod("one", "a")
	finished.Status.Phase = corev1.PodSucceeded
	for name, test := range map[string]struct {
		mode   corev1.PersistentVolumeAccessMode
		pods   []*corev1.Pod
		node   *corev1.Node
		driver *storagev1.CSIDriver
		had    []*storagev1.VolumeAttachment
		want   bool // attached to node a
	}{
		"used":                       {pods: []*corev1.Pod{testPod("one", "a")}, node: testNode("a"), want: true},
		"used elsewhere":             {pods: []*corev1.Pod{testPod("one", "b")}, node: testNode("a")},
		"finished":                   {pods: []*corev1.Pod{finished}, node: testNode("a"), had: []*storagev1.VolumeAttachment{attached("a")}},
		"no node":                    {pods: []*corev1.Pod{testPod("one", "a")}, had: []*storagev1.VolumeAttachment{attached("a")}},
		"needs no attaching":         {pods: []*corev1.Pod{testPod("one", "a")}, node: testNode("a"), driver: &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driver}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)}}},
		"attached elsewhere":         {mode: corev1.ReadWriteOnce, pods: []*corev1.Pod{testPod("one", "a")}, node: testNode("a"), had: []*storagev1.VolumeAttachment{attached("b")}},
		"shared":                     {mode: corev1.ReadWriteMany, pods: []*corev1.Pod{testPod("one", "a")}, node: testNode("a"), had: []*storagev1.VolumeAttachment{attached("b")}, want: true},
		"unused, but in use there":   {node: testNode("a", unique), had: []*storagev1.VolumeAttachment{attached("a")}, want: true},
		"in use, but out of service": {node: down, had: []*storagev1.VolumeAttachment{attached("a")}},
	} {
		t.Run(name, func(t *testing.T) {
			f := controllertest.New(t, testVolume(test.mode), testClaim())
			add := func(obj any, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, pod := range test.pods {
				add(f.Client.CoreV1().Pods("ns").Create(t.Context(), pod, metav1.CreateOptions{}))
			}
			if test.node != nil {
				add(f.Client.CoreV1().Nodes().Create(t.Context(), test.node, metav1.CreateOptions{}))
			}
			if test.driver != nil {
				add(f.Client.StorageV1().CSIDrivers().Create(t.Context(), test.driver, metav1.CreateOptions{}))
			}
			for _, a := range test.had {
				add(f.Client.StorageV1().VolumeAttachments().Create(t.Context(), a.DeepCopy(), metav1.CreateOptions{}))
			}
			made, err := New(f.Env)
			if err != nil {
				t.Fatal(err)
			}
			f.Start(t, made)
			w := world{f, t}
			controllertest.Eventually(t, "the attachment to be as it should", func() bool { return (w.attachment("a") != nil) == test.want })
		})
	}
}
