package policy

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"clusterctl/nodeagent/policy/policytest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(plenty); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

func TestRunFollowsTheCluster(t *testing.T) {
	w := newWorld(t)
	elsewhere := denyAll("z", metav1.LabelSelector{})
	objects := []runtime.Object{elsewhere, testNamespaces[0], testNamespaces[1]}
	for _, pod := range testPods {
		objects = append(objects, pod.DeepCopy())
	}
	client := fake.NewClientset(objects...)
	watched := func(resource string) bool {
		return slices.ContainsFunc(client.Actions(), func(a clienttesting.Action) bool {
			return a.GetVerb() == "list" && a.GetResource().Resource == resource
		})
	}
	here := fake.NewClientset(testPods[0].DeepCopy(), testPods[1].DeepCopy())
	own := informers.NewSharedInformerFactory(here, 0)
	pods := own.Core().V1().Pods().Informer()
	ctx, cancel := context.WithCancel(t.Context())
	own.Start(ctx.Done())
	ended := make(chan error)
	go func() {
		ended <- run(ctx, Config{Client: client, Own: pods, Log: slog.New(slog.DiscardHandler)}, int(w.nodes["one"]))
	}()
	programmed := func() bool {
		for _, f := range families {
			exists, err := (&kernel{family: f, netns: int(w.nodes["one"])}).exists()
			w.must(err)
			if exists {
				return true
			}
		}
		return false
	}
	reaches := func(patience time.Duration) bool {
		c := policytest.Connection{From: testPods[1], To: testPods[0], Target: podAddr(0), Protocol: corev1.ProtocolTCP, Port: 8080}
		return w.try(c, patience) == nil
	}
	eventually(t, "the list of policies", func() bool { return watched("networkpolicies") })
	if !reaches(plenty) {
		t.Error("a policy of elsewhere keeps pods apart")
	}
	if programmed() || watched("pods") || watched("namespaces") {
		t.Errorf("no policy selects a pod of this node, but: table %v, pods watched %v", programmed(), watched("pods"))
	}
	policies := client.NetworkingV1().NetworkPolicies("x")
	_, err := policies.Create(ctx, denyAll("x", metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}), metav1.CreateOptions{})
	w.must(err)
	eventually(t, "a policy kept pods apart", func() bool { return !reaches(moment) })
	relabelled := testPods[0].DeepCopy()
	relabelled.Labels = map[string]string{"app": "none"}
	_, err = here.CoreV1().Pods("x").Update(ctx, relabelled, metav1.UpdateOptions{})
	w.must(err)
	eventually(t, "a pod was not selected any more", func() bool { return reaches(2*time.Second) && !programmed() })
	_, err = here.CoreV1().Pods("x").Update(ctx, testPods[0].DeepCopy(), metav1.UpdateOptions{})
	w.must(err)
	eventually(t, "a pod was selected again", func() bool { return !reaches(moment) })
	w.must(policies.Delete(ctx, "deny", metav1.DeleteOptions{}))
	eventually(t, "the policy had gone", func() bool { return reaches(2*time.Second) && !programmed() })
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}
