package disruption

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/reconcile"
)

func targeted(name, reason string, ago time.Duration) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: "m", LastTransitionTime: metav1.NewTime(time.Now().Add(-ago))},
	}}}
}

func TestDisruptionsThatDoNotHappenAreTakenBack(t *testing.T) {
	ended, leaving := targeted("ended", "EvictionByEvictionAPI", time.Hour), targeted("leaving", "EvictionByEvictionAPI", time.Hour)
	ended.Status.Phase = corev1.PodFailed
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	leaving.Finalizers = []string{"example.com/f"}
	f := controllertest.New(t, []runtime.Object{
		targeted("stale", "EvictionByEvictionAPI", time.Hour), targeted("fresh", "EvictionByEvictionAPI", time.Second),
		targeted("agent", corev1.PodReasonTerminationByKubelet, time.Hour), ended, leaving,
	}...)
	c, err := New(f.Env, &rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	condition := func(name string) *corev1.PodCondition {
		pod, err := f.Client.CoreV1().Pods("ns").Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return reconcile.PodCondition(pod, corev1.DisruptionTarget)
	}
	controllertest.Eventually(t, "the stale condition to be taken back", func() bool { return condition("stale").Status == corev1.ConditionFalse })
	if c := condition("stale"); c.Reason != "" || c.Message != "" || time.Since(c.LastTransitionTime.Time) > time.Minute {
		t.Errorf("condition %+v", c)
	}
	for _, name := range []string{"fresh", "agent", "ended", "leaving"} {
		if c := condition(name); c.Status != corev1.ConditionTrue {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
