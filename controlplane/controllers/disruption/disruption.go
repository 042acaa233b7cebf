package disruption

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/controlplane/controllers/scales"
)

const (
	workers = 2
	// grace is how long an evicted pod may take to be deleted; after that, the
	// eviction is taken to have failed.
	grace = 2 * time.Minute
)

type controller struct {
	client       kubernetes.Interface
	budgets      policylisters.PodDisruptionBudgetLister
	pods         corelisters.PodLister
	sets         appslisters.ReplicaSetLister
	deployments  appslisters.DeploymentLister
	statefulSets appslisters.StatefulSetLister
	replications corelisters.ReplicationControllerLister
	scales       *scales.Client // of owners of other kinds
	recorder     record.EventRecorder
	loop         *reconcile.Loop
	stale        *reconcile.Loop // pods that were to be disrupted and were not
}

// New makes the controller. config reaches scales of all kinds.
func New(env *reconcile.Environment, config *rest.Config) (reconcile.Controller, error) {
	client, err := scales.New(env.Client.Discovery(), config)
	if err != nil {
		return nil, err
	}
	return newController(env, client)
}

func newController(env *reconcile.Environment, client *scales.Client) (reconcile.Controller, error) {
	core, apps := env.Informers.Core().V1(), env.Informers.Apps().V1()
	budgets := env.Informers.Policy().V1().PodDisruptionBudgets()
	c := &controller{
		client:       env.Client,
		budgets:      budgets.Lister(),
		pods:         core.Pods().Lister(),
		sets:         apps.ReplicaSets().Lister(),
		deployments:  apps.Deployments().Lister(),
		statefulSets: apps.StatefulSets().Lister(),
		replications: core.ReplicationControllers().Lister(),
		scales:       client,
		recorder:     env.Recorder("controllermanager"),
	}
	c.loop = reconcile.NewLoop(env, "disruption", workers, c.reconcile)
	c.stale = reconcile.NewLoop(env, "disruption-stale", 1, c.refresh)
	if err := reconcile.Each(env, budgets.Informer(), func(b *policyv1.PodDisruptionBudget) { c.loop.AddObject(b) }); err != nil {
		return nil, err
	}
	err := reconcile.Watch(env, core.Pods().Informer(), reconcile.Handlers[*corev1.Pod]{
		Add: func(pod *corev1.Pod) { c.podChanged(pod); c.watchCondition(pod) },
		Update: func(old, pod *corev1.Pod) {
			c.podChanged(old)
			c.podChanged(pod)
			c.watchCondition(pod)
		},
		Delete: c.podChanged,
	})
	if err != nil {
		return nil, err
	}
	// What the pods' owners want is part of the sum.
	for _, watch := range []error{
		reconcile.Each(env, apps.ReplicaSets().Informer(), func(o *appsv1.ReplicaSet) { c.addNamespace(o.Namespace) }),
		reconcile.Each(env, apps.Deployments().Informer(), func(o *appsv1.Deployment) { c.addNamespace(o.Namespace) }),
		reconcile.Each(env, apps.StatefulSets().Informer(), func(o *appsv1.StatefulSet) { c.addNamespace(o.Namespace) }),
		reconcile.Each(env, core.ReplicationControllers().Informer(), func(o *corev1.ReplicationController) { c.addNamespace(o.Namespace) }),
	} {
		if watch != nil {
			return nil, watch
		}
	}
	return reconcile.All{c.loop, c.stale}, nil
}

func (c *controller) each(namespace string, f func(*policyv1.PodDisruptionBudget)) {
	budgets, err := c.budgets.PodDisruptionBudgets(namespace).List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list disruption budgets", "namespace", namespace, "error", err)
		return
	}
	for _, b := range budgets {
		f(b)
	}
}

func (c *controller) addNamespace(namespace string) {
	c.each(namespace, func(b *policyv1.PodDisruptionBudget) { c.loop.AddObject(b) })
}

func (c *controller) podChanged(pod *corev1.Pod) {
	c.each(pod.Namespace, func(b *policyv1.PodDisruptionBudget) {
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(b)
		}
	})
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	budget, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	pods, err := c.pods.Pods(namespace).List(selector)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		c.recorder.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	updated := budget.DeepCopy()
	now := time.Now()
	expected, desired, sumErr := c.wanted(ctx, budget, pods)
	if sumErr == nil {
		c.judge(updated, pods, expected, desired, now)
	} else {
		// Nothing may be evicted while nobody knows how much there should be.
		c.recorder.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", sumErr)
		updated.Status.DisruptionsAllowed = 0
		meta.SetStatusCondition(&updated.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
			Message: sumErr.Error(), ObservedGeneration: budget.Status.ObservedGeneration})
	}
	if !equality.Semantic.DeepEqual(budget.Status, updated.Status) {
		if _, err := c.client.PolicyV1().PodDisruptionBudgets(namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write status: %w", err)
		}
	}
	if len(updated.Status.DisruptedPods) > 0 {
		c.loop.AddAfter(key, grace)
	}
	return sumErr
}

// judge fills in the status.
func (c *controller) judge(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, expected, desired int32, now time.Time) {
	status := &budget.Status
	evicted := map[string]metav1.Time{}
	healthy := int32(0)
	for _, pod := range pods {
		since, was := status.DisruptedPods[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || reconcile.PodTerminal(pod):
			continue
		case was && since.Add(grace).After(now):
			evicted[pod.Name] = since
			continue
		case was:
			c.recorder.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s to be deleted but it wasn't", reconcile.Key(budget))
		}
		if reconcile.PodReady(pod) {
			healthy++
		}
	}
	if len(evicted) == 0 {
		evicted = nil
	}
	status.DisruptedPods = evicted
	status.CurrentHealthy, status.DesiredHealthy, status.ExpectedPods = healthy, desired, expected
	status.DisruptionsAllowed = 0
	if expected > 0 {
		status.DisruptionsAllowed = max(0, healthy-desired)
	}
	status.ObservedGeneration = budget.Generation
	poddisruptionbudget.UpdateDisruptionAllowedCondition(budget)
}

// wanted returns how many pods there should be, and how many have to stay
// healthy.
func (c *controller) wanted(ctx context.Context, budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, err error) {
	least, most := budget.Spec.MinAvailable, budget.Spec.MaxUnavailable
	if most == nil && (least == nil || least.Type == intstr.Int) {
		if least != nil {
			desired = least.IntVal
		}
		return int32(len(pods)), desired, nil
	}
	if slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return metav1.GetControllerOfNoCopy(pod) == nil }) {
		c.recorder.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
	}
	if expected, err = c.expected(ctx, pods); err != nil {
		return 0, 0, err
	}
	if most != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(most, int(expected), true)
		if err != nil {
			return 0, 0, fmt.Errorf("read maxUnavailable: %w", err)
		}
		return expected, max(0, expected-int32(n)), nil
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(least, int(expected), true)
	if err != nil {
		return 0, 0, fmt.Errorf("read minAvailable: %w", err)
	}
	return expected, int32(n), nil
}
