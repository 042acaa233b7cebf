package disruption

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/discovery/cached/memory"
	discoveryfake "k8s.io/client-go/discovery/fake"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/scales"
)

func TestStatus(t *testing.T) {
	now := metav1.Now()
	old := metav1.NewTime(time.Now().Add(-time.Hour))
	const gone = `found no controllers for pod "ready-0"`
	number := func(s string) *intstr.IntOrString { v := intstr.Parse(s); return &v }
	for name, test := range map[string]struct {
		spec      policyv1.PodDisruptionBudgetSpec
		ready     int
		unready   int
		owner     string
		disrupted map[string]metav1.Time
		want      policyv1.PodDisruptionBudgetStatus
		reason    string
		message   string
	}{
		"least":            {policyv1.PodDisruptionBudgetSpec{MinAvailable: number("2")}, 3, 1, "", nil, policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, CurrentHealthy: 3, DesiredHealthy: 2, ExpectedPods: 4}, policyv1.SufficientPodsReason, ""},
		"too few":          {policyv1.PodDisruptionBudgetSpec{MinAvailable: number("4")}, 3, 0, "", nil, policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 4, ExpectedPods: 3}, policyv1.InsufficientPodsReason, ""},
		"share, rounded":   {policyv1.PodDisruptionBudgetSpec{MinAvailable: number("30%")}, 5, 0, "StatefulSet", nil, policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 3, CurrentHealthy: 5, DesiredHealthy: 2, ExpectedPods: 5}, policyv1.SufficientPodsReason, ""},
		"most away":        {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number("1")}, 4, 0, "StatefulSet", nil, policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 4, DesiredHealthy: 4, ExpectedPods: 5}, policyv1.InsufficientPodsReason, ""},
		"most, deployment": {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number("40%")}, 5, 0, "ReplicaSet", nil, policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 2, CurrentHealthy: 5, DesiredHealthy: 3, ExpectedPods: 5}, policyv1.SufficientPodsReason, ""},
		"evicted just now": {policyv1.PodDisruptionBudgetSpec{MinAvailable: number("1")}, 3, 0, "", map[string]metav1.Time{"ready-0": now, "gone": now}, policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 3}, policyv1.SufficientPodsReason, ""},
		"never deleted":    {policyv1.PodDisruptionBudgetSpec{MinAvailable: number("1")}, 3, 0, "", map[string]metav1.Time{"ready-0": old}, policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 2, CurrentHealthy: 3, DesiredHealthy: 1, ExpectedPods: 3}, policyv1.SufficientPodsReason, ""},
		"unknown owner":    {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number("1")}, 3, 0, "Gadget", nil, policyv1.PodDisruptionBudgetStatus{}, policyv1.SyncFailedReason, `no matches for kind "Gadget" in version "apps/v1"`},
		"without a scale":  {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number("1")}, 3, 0, "Lump", nil, policyv1.PodDisruptionBudgetStatus{}, policyv1.SyncFailedReason, "lumps.example.com does not implement the scale subresource"},
		"owner is gone":    {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number("1")}, 3, 0, "ReplicaSet", nil, policyv1.PodDisruptionBudgetStatus{}, policyv1.SyncFailedReason, gone},
		"custom owner":     {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number("25%")}, 7, 0, "Rollout", nil, policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, CurrentHealthy: 7, DesiredHealthy: 6, ExpectedPods: 8}, policyv1.SufficientPodsReason, ""},
		"no pods":          {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number("1")}, 0, 0, "", nil, policyv1.PodDisruptionBudgetStatus{}, policyv1.InsufficientPodsReason, ""},
	} {
		t.Run(name, func(t *testing.T) {
			labels := map[string]string{"app": "web"}
			test.spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
			own := metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "owner"}
			deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "deployment"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](5)}}
			set := &appsv1.ReplicaSet{ObjectMeta: own, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2)}}
			set.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(deployment, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
			objects := []runtime.Object{
				&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "pdb", Namespace: "ns", Generation: 3}, Spec: test.spec,
					Status: policyv1.PodDisruptionBudgetStatus{DisruptedPods: test.disrupted}},
				deployment, set, &appsv1.StatefulSet{ObjectMeta: own, Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](5)}},
			}
			pod := func(name string, status corev1.ConditionStatus) {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), Labels: labels},
					Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}}}
				if test.owner != "" {
					version, uid := "apps/v1", types.UID("owner")
					if test.owner == "Rollout" || test.owner == "Lump" {
						version = "example.com/v1"
					}
					if test.message == gone {
						uid = "former"
					}
					p.OwnerReferences = []metav1.OwnerReference{{APIVersion: version, Kind: test.owner, Name: "web", UID: uid, Controller: ptr.To(true)}}
				}
				objects = append(objects, p)
			}
			for i := range test.ready {
				pod(fmt.Sprint("ready-", i), corev1.ConditionTrue)
			}
			for i := range test.unready {
				pod(fmt.Sprint("unready-", i), corev1.ConditionFalse)
			}
			f := controllertest.New(t, objects...)
			f.Client.Discovery().(*discoveryfake.FakeDiscovery).Resources = []*metav1.APIResourceList{
				{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{{Name: "replicasets", Kind: "ReplicaSet", Namespaced: true},
					{Name: "replicasets/scale", Kind: "Scale", Group: "autoscaling", Version: "v1", Namespaced: true}}},
				{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "rollouts", Kind: "Rollout", Namespaced: true},
					{Name: "rollouts/scale", Kind: "Scale", Group: "autoscaling", Version: "v1", Namespaced: true}, {Name: "lumps", Kind: "Lump", Namespaced: true}}}}
			getter := &scalefake.FakeScaleClient{}
			getter.AddReactor("get", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
				if action.GetResource().Resource != "rollouts" {
					return true, nil, apierrors.NewNotFound(action.GetResource().GroupResource(), "web")
				}
				return true, &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{UID: "owner"}, Spec: autoscalingv1.ScaleSpec{Replicas: 8}}, nil
			})
			c, err := newController(f.Env, scales.NewWith(memory.NewMemCacheClient(f.Client.Discovery()), getter))
			if err != nil {
				t.Fatal(err)
			}
			f.Start(t, c)
			var got policyv1.PodDisruptionBudgetStatus
			controllertest.Eventually(t, "a status", func() bool {
				budget, err := f.Client.PolicyV1().PodDisruptionBudgets("ns").Get(context.Background(), "pdb", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				got = budget.Status
				// One that could not be summed up is not observed.
				return got.ObservedGeneration == 3 || test.reason == policyv1.SyncFailedReason && len(got.Conditions) > 0
			})
			condition := meta.FindStatusCondition(got.Conditions, policyv1.DisruptionAllowedCondition)
			if got.DisruptionsAllowed != test.want.DisruptionsAllowed || got.CurrentHealthy != test.want.CurrentHealthy ||
				got.DesiredHealthy != test.want.DesiredHealthy || got.ExpectedPods != test.want.ExpectedPods || condition == nil || condition.Reason != test.reason {
				t.Errorf("status %+v, want %+v with %s", got, test.want, test.reason)
			}
			if test.reason == policyv1.SyncFailedReason && (condition.Message != test.message || got.ObservedGeneration != 0) {
				t.Errorf("says %q of generation %d", condition.Message, got.ObservedGeneration)
			}
			if _, waits := got.DisruptedPods["ready-0"]; waits != (name == "evicted just now") || got.DisruptedPods["gone"] != (metav1.Time{}) {
				t.Errorf("disrupted pods %v", got.DisruptedPods)
			}
		})
	}
}
