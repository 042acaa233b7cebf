package resourceclaim

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
)

func testPod(edit func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "pod-uid"},
		Spec: corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{
			{Name: "own", ResourceClaimTemplateName: ptr.To("template")}, {Name: "shared", ResourceClaimName: ptr.To("shared")}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	if edit != nil {
		edit(pod)
	}
	return pod
}

func template() *resourcev1.ResourceClaimTemplate {
	return &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "template"},
		Spec: resourcev1.ResourceClaimTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
			Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r"}}}},
		},
	}
}

// allocated is a claim as the scheduler leaves it.
func allocated(name string, pods ...*corev1.Pod) *resourcev1.ResourceClaim {
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Finalizers: []string{"example.com/other", resourcev1.Finalizer}},
		Status:     resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}},
	}
	for _, pod := range pods {
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	}
	return claim
}

// start makes the controller over objects; what it does is asked of it.
func start(t *testing.T, objects ...runtime.Object) (*controllertest.Fixture, *controller) {
	t.Helper()
	f := controllertest.New(t, objects...)
	c, err := newController(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t)
	return f, c
}

func TestClaimIsMadeOnce(t *testing.T) {
	f, c := start(t, testPod(nil), template())
	// Twice, while the cache may show neither the claim nor the pod's status.
	for range 2 {
		if err := c.reconcilePod(t.Context(), "ns/pod"); err != nil {
			t.Fatal(err)
		}
	}
	list, err := f.Client.ResourceV1().ResourceClaims("ns").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("made %d claims, %v", len(list.Items), err)
	}
	claim := &list.Items[0]
	if !strings.HasPrefix(claim.Name, "pod-own-") || !metav1.IsControlledBy(claim, testPod(nil)) || claim.Labels["a"] != "b" || claim.Annotations["c"] != "d" ||
		claim.Annotations[resourcev1.PodResourceClaimAnnotation] != "own" || claim.Spec.Devices.Requests[0].Name != "r" {
		t.Errorf("made %+v", claim)
	}
	pod, err := f.Client.CoreV1().Pods("ns").Get(t.Context(), "pod", metav1.GetOptions{})
	if err != nil || len(pod.Status.ResourceClaimStatuses) != 1 || *pod.Status.ResourceClaimStatuses[0].ResourceClaimName != claim.Name {
		t.Errorf("pod has claims %+v, %v", pod.Status.ResourceClaimStatuses, err)
	}
}

func TestClaimWithoutTemplateIsTold(t *testing.T) {
	f, c := start(t, testPod(nil))
	if err := c.reconcilePod(t.Context(), "ns/pod"); err == nil || !strings.Contains(err.Error(), `resource claim template "template"`) {
		t.Errorf("made a claim of no template: %v", err)
	}
	controllertest.Eventually(t, "event", func() bool {
		events, err := f.Client.CoreV1().Events("ns").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(events.Items) == 1 && events.Items[0].Reason == "FailedResourceClaimCreation"
	})
}

func TestBoundPodGetsItsReservations(t *testing.T) {
	pod := testPod(func(p *corev1.Pod) {
		p.Spec.NodeName = "n"
		p.Spec.ResourceClaims = p.Spec.ResourceClaims[1:]
	})
	f, c := start(t, pod, allocated("shared"))
	if err := c.reconcilePod(t.Context(), "ns/pod"); err != nil {
		t.Fatal(err)
	}
	claim, err := f.Client.ResourceV1().ResourceClaims("ns").Get(t.Context(), "shared", metav1.GetOptions{})
	if err != nil || len(claim.Status.ReservedFor) != 1 || claim.Status.ReservedFor[0].UID != pod.UID {
		t.Errorf("reserved for %+v, %v", claim.Status.ReservedFor, err)
	}
}

func TestClaimsOfDonePodsAreFreed(t *testing.T) {
	running := testPod(func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "n", corev1.PodRunning })
	finished := testPod(func(p *corev1.Pod) { p.Name, p.UID, p.Status.Phase = "finished", "finished-uid", corev1.PodSucceeded })
	never := testPod(func(p *corev1.Pod) { p.Name, p.UID, p.DeletionTimestamp = "never", "never-uid", ptr.To(metav1.Now()) })
	gone := testPod(func(p *corev1.Pod) { p.Name, p.UID = "gone", "gone-uid" })
	replaced := testPod(func(p *corev1.Pod) { p.UID = "old-uid" })
	owned := func(claim *resourcev1.ResourceClaim, pod *corev1.Pod) *resourcev1.ResourceClaim {
		claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}}
		return claim
	}
	deleted := func(claim *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
		claim.DeletionTimestamp = ptr.To(metav1.Now())
		return claim
	}
	another := allocated("c", finished)
	another.Status.ReservedFor[0].Resource = "others"
	for name, test := range map[string]struct {
		claim     *resourcev1.ResourceClaim
		reserved  int
		allocated bool
		gone      bool
	}{
		"running":                {allocated("c", running), 1, true, false},
		"running and finished":   {allocated("c", running, finished), 1, true, false},
		"finished":               {allocated("c", finished), 0, false, false},
		"deleted before a node":  {allocated("c", never), 0, false, false},
		"gone":                   {allocated("c", gone), 0, false, false},
		"replaced":               {allocated("c", replaced), 0, false, false},
		"for something else":     {another, 1, true, false},
		"reserved for nobody":    {allocated("c"), 0, true, false},
		"deleted, for nobody":    {deleted(allocated("c")), 0, false, false},
		"deleted, still used":    {deleted(allocated("c", running)), 1, true, false},
		"made for a running pod": {owned(allocated("c", running), running), 1, true, false},
		"made for a done pod":    {owned(allocated("c", finished), finished), 0, false, true},
		"made for an older pod":  {owned(allocated("c"), replaced), 0, true, true},
		"made for a pod gone":    {owned(allocated("c", gone), gone), 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := start(t, test.claim, running, finished, never)
			if err := c.reconcileClaim(t.Context(), "ns/c"); err != nil {
				t.Fatal(err)
			}
			got, err := f.Client.ResourceV1().ResourceClaims("ns").Get(t.Context(), "c", metav1.GetOptions{})
			if test.gone || err != nil {
				if !apierrors.IsNotFound(err) || !test.gone {
					t.Errorf("gone %v, want %v", err, test.gone)
				}
				return
			}
			if len(got.Status.ReservedFor) != test.reserved || (got.Status.Allocation != nil) != test.allocated ||
				slices.Contains(got.Finalizers, resourcev1.Finalizer) != test.allocated || !slices.Contains(got.Finalizers, "example.com/other") {
				t.Errorf("left %+v with %v", got.Status, got.Finalizers)
			}
		})
	}
}

func TestGenerateName(t *testing.T) {
	name := rapid.StringMatching(`[a-z][a-z0-9-]{0,80}[a-z0-9]`)
	rapid.Check(t, func(t *rapid.T) {
		pod, claim := name.Draw(t, "pod"), name.Draw(t, "claim")
		got := generateName(pod, claim)
		if errs := validation.IsDNS1123Label(got + "abcde"); len(errs) > 0 {
			t.Errorf("%q: %v", got, errs)
		}
		if len(pod+claim) < 55 && got != pod+"-"+claim+"-" {
			t.Errorf("shortened %q", got)
		}
	})
}
