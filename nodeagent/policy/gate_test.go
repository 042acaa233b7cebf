package policy

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"clusterctl/nodeagent/policy/policytest"
)

// unannounced is a pod as the API has it before its node has told its address.
func unannounced(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	return pod
}

func TestPodsPassWhenTheirPoliciesHold(t *testing.T) {
	w := newWorld(t)
	client := fake.NewClientset(testNamespaces[0], testNamespaces[1], unannounced(testPods[0]), testPods[1].DeepCopy(),
		denyAll("x", metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}))
	here := fake.NewClientset(unannounced(testPods[0]), testPods[1].DeepCopy())
	own := informers.NewSharedInformerFactory(here, 0)
	pods := own.Core().V1().Pods().Informer()
	ctx, cancel := context.WithCancel(t.Context())
	gate := NewGate()
	passed := make(chan error, 1)
	go func() { passed <- gate.Pass(ctx, testPods[0]) }()
	select {
	case err := <-passed:
		t.Fatalf("a pod passed (%v) before policies were known", err)
	case <-time.After(moment):
	}
	own.Start(ctx.Done())
	ended := make(chan error)
	go func() {
		ended <- run(ctx, Config{Client: client, Own: pods, Gate: gate, Log: slog.New(slog.DiscardHandler)}, int(w.nodes["one"]))
	}()
	if err := <-passed; err != nil {
		t.Fatalf("a pod that is selected: %v", err)
	}
	// At once: nothing may have come through meanwhile.
	c := policytest.Connection{From: testPods[1], To: testPods[0], Target: podAddr(0), Protocol: corev1.ProtocolTCP, Port: 8080}
	if w.try(c, moment) == nil {
		t.Error("a pod that passed is reached though a policy denies it")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestGateHoldsOnlyWhomPoliciesSelect(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	woken := 0
	gate := NewGate()
	gate.selected = func(pod *corev1.Pod) bool { return pod.Name == "web" }
	gate.wake = func() { woken++ }
	close(gate.open)
	pod := func(name, ip string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: "uid"}, Status: corev1.PodStatus{PodIP: ip}}
	}
	for name, p := range map[string]*corev1.Pod{
		"not selected": pod("other", "10.0.0.9"),
		"on the host":  {ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{HostNetwork: true}, Status: corev1.PodStatus{PodIP: "10.0.0.1"}},
	} {
		if err := gate.Pass(ctx, p); err != nil || woken != 0 {
			t.Errorf("%s: %v, woken %d times", name, err, woken)
		}
	}
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	web := pod("web", "10.0.0.2")
	if turn := gate.announce(web); turn != 1 || woken != 1 {
		t.Errorf("turn %d, woken %d times", turn, woken)
	}
	// The API does not know the pod yet.
	if pods, turn := gate.merge(store); len(pods) != 1 || pods[0].Status.PodIP != "10.0.0.2" || turn != 1 {
		t.Errorf("got %d pods in turn %d, want the one that was announced", len(pods), turn)
	}
	// It knows it without its address.
	if err := store.Add(pod("web", "")); err != nil {
		t.Fatal(err)
	}
	if pods, _ := gate.merge(store); len(pods) != 1 || pods[0].Status.PodIP != "10.0.0.2" {
		t.Errorf("got %+v, want one with the address that was announced", pods)
	}
	gate.reached(1)
	if err := gate.Pass(ctx, web); err != nil || woken != 1 {
		t.Errorf("the next container: %v, woken %d times", err, woken)
	}
	// Another address has to be announced; nobody enforces it.
	short, stop := context.WithTimeout(ctx, moment)
	defer stop()
	if err := gate.Pass(short, pod("web", "10.0.0.3")); err == nil {
		t.Error("a new address passed though nobody enforced policies")
	}
	// The pod has gone.
	gate.merge(store)
	if err := store.Delete(web); err != nil {
		t.Fatal(err)
	}
	if pods, _ := gate.merge(store); len(pods) != 0 || len(gate.announced) != 0 {
		t.Errorf("%d pods and %d announcements are left of a pod that has gone", len(pods), len(gate.announced))
	}
}
