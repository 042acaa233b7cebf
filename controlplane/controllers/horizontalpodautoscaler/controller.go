package horizontalpodautoscaler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/controlplane/controllers/scales"
)

const (
	workers = 5
	// pace is how often an autoscaler is looked at.
	pace = 15 * time.Second
)

// identity is a namespace and a name, as messages show them.
type identity struct{ namespace, name string }

type controller struct {
	client      kubernetes.Interface
	autoscalers autoscalinglisters.HorizontalPodAutoscalerLister
	pods        corelisters.PodLister
	scales      *scales.Client
	source      source
	recorder    record.EventRecorder
	loop        *reconcile.Loop
	now         func() time.Time

	mu        sync.Mutex
	histories map[string]*history // by key; each is its worker's alone
	selectors map[identity]labels.Selector
}

// New makes the controller. config reaches scales and metrics of all kinds.
func New(env *reconcile.Environment, config *rest.Config) (reconcile.Controller, error) {
	c := newController(env)
	var err error
	if c.scales, err = scales.New(env.Client.Discovery(), config); err != nil {
		return nil, err
	}
	if c.source, err = newAPIs(rest.CopyConfig(config), env.Client.Discovery(), c.scales.Kinds()); err != nil {
		return nil, err
	}
	return c.loop, c.watch(env)
}

func newController(env *reconcile.Environment) *controller {
	c := &controller{
		client:      env.Client,
		autoscalers: env.Informers.Autoscaling().V2().HorizontalPodAutoscalers().Lister(),
		pods:        env.Informers.Core().V1().Pods().Lister(),
		recorder:    env.Recorder("horizontal-pod-autoscaler"),
		now:         time.Now,
		histories:   map[string]*history{},
		selectors:   map[identity]labels.Selector{},
	}
	c.loop = reconcile.NewLoop(env, "horizontalpodautoscaler", workers, c.reconcile)
	return c
}

// watch looks at an autoscaler at once when its specification changes. The
// status that is written here must not make it be looked at more often.
func (c *controller) watch(env *reconcile.Environment) error {
	autoscalers := env.Informers.Autoscaling().V2().HorizontalPodAutoscalers()
	env.Informers.Core().V1().Pods().Informer()
	return reconcile.Watch(env, autoscalers.Informer(), reconcile.Handlers[*autoscalingv2.HorizontalPodAutoscaler]{
		Add: func(a *autoscalingv2.HorizontalPodAutoscaler) { c.loop.AddObject(a) },
		Update: func(old, a *autoscalingv2.HorizontalPodAutoscaler) {
			if old.UID != a.UID || !equality.Semantic.DeepEqual(old.Spec, a.Spec) {
				c.loop.AddObject(a)
			}
		},
		Delete: func(a *autoscalingv2.HorizontalPodAutoscaler) { c.loop.AddObject(a) },
	})
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	shared, err := c.autoscalers.HorizontalPodAutoscalers(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.histories, key)
		delete(c.selectors, identity{namespace, name})
		return nil
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	past := c.histories[key]
	if past == nil {
		past = &history{}
		c.histories[key] = past
	}
	c.mu.Unlock()
	// Metrics that fail now fail a moment later, too: errors wait for the next
	// look like everything else.
	defer c.loop.AddAfter(key, pace)
	p := &pass{controller: c, autoscaler: shared.DeepCopy(), past: past, now: c.now()}
	if err := errors.Join(p.run(ctx), p.write(ctx, &shared.Status)); err != nil && ctx.Err() == nil {
		c.loop.Logger().Warn("size the target of an autoscaler", "key", key, "error", err)
	}
	return nil
}

// pass is one look at one autoscaler.
type pass struct {
	*controller
	autoscaler *autoscalingv2.HorizontalPodAutoscaler // ours to change
	past       *history
	now        time.Time
}

// run sizes the target and fills in the status.
func (p *pass) run(ctx context.Context) error {
	spec := p.autoscaler.Spec
	target, resource, err := p.scales.Get(ctx, p.autoscaler.Namespace, spec.ScaleTargetRef.APIVersion, spec.ScaleTargetRef.Kind, spec.ScaleTargetRef.Name)
	if err != nil {
		p.warn("FailedGetScale", err)
		p.set(autoscalingv2.AbleToScale, reason{false, "FailedGetScale", fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err)})
		return fmt.Errorf("read scale of %s %s: %w", spec.ScaleTargetRef.Kind, spec.ScaleTargetRef.Name, err)
	}
	p.set(autoscalingv2.AbleToScale, reason{true, "SucceededGetScale", "the HPA controller was able to get the target's current scale"})
	n := sizes{current: target.Spec.Replicas, least: 1, most: spec.MaxReplicas}
	if spec.MinReplicas != nil {
		n.least = *spec.MinReplicas
	}
	p.past.begin(n.current, p.now)

	size, why := n.current, ""
	var statuses []autoscalingv2.MetricStatus
	var partly error
	switch {
	case n.current == 0:
		p.set(autoscalingv2.ScalingActive, reason{false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero"})
		p.unset(autoscalingv2.ScaledToZero)
	case n.current > n.most:
		size, why = n.most, "Current number of replicas above Spec.MaxReplicas"
	case n.current < n.least:
		size, why = n.least, "Current number of replicas below Spec.MinReplicas"
	default:
		var proposed int32
		var metric string
		proposed, metric, statuses, partly = p.propose(ctx, target)
		if partly != nil && proposed < 0 {
			p.fill(n.current, p.autoscaler.Status.DesiredReplicas, statuses)
			p.warn("FailedComputeMetricsReplicas", partly)
			return partly
		}
		switch {
		case proposed > n.current:
			why = metric + " above target"
		case proposed < n.current:
			why = "All metrics below target"
		}
		var able, limited reason
		size, able, limited = p.past.decide(spec.Behavior, n, proposed, p.now)
		p.set(autoscalingv2.AbleToScale, able)
		p.set(autoscalingv2.ScalingLimited, limited)
	}
	if size == n.current {
		p.fill(n.current, size, statuses)
		return partly
	}
	if err := p.scales.Resize(ctx, p.autoscaler.Namespace, resource, target, size); err != nil {
		p.recorder.Eventf(p.autoscaler, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", size, why, err)
		p.set(autoscalingv2.AbleToScale, reason{false, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err)})
		p.fill(n.current, p.autoscaler.Status.DesiredReplicas, statuses)
		return fmt.Errorf("resize %s %s: %w", spec.ScaleTargetRef.Kind, spec.ScaleTargetRef.Name, err)
	}
	p.set(autoscalingv2.AbleToScale, reason{true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", size)})
	p.recorder.Eventf(p.autoscaler, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", size, why)
	p.past.changed(spec.Behavior, n.current, size, p.now)
	p.unset(autoscalingv2.ScaledToZero)
	p.fill(n.current, size, statuses)
	p.autoscaler.Status.LastScaleTime = &metav1.Time{Time: p.now}
	return partly
}

// propose returns the largest size that a metric asks for, or -1 where metrics
// fail and the others would scale down: what is not known may be load. An error
// beside a size tells of metrics that failed.
func (p *pass) propose(ctx context.Context, target *autoscalingv1.Scale) (size int32, metric string, statuses []autoscalingv2.MetricStatus, err error) {
	selector, pods, err := p.selected(target.Status.Selector)
	if err != nil {
		return -1, "", nil, err
	}
	q := &question{
		source: p.source, namespace: p.autoscaler.Namespace, selector: selector, pods: pods,
		current: target.Spec.Replicas, observed: target.Status.Replicas, tolerance: toleranceOf(p.autoscaler.Spec.Behavior), now: p.now,
	}
	specs := p.autoscaler.Spec.Metrics
	statuses = make([]autoscalingv2.MetricStatus, len(specs))
	var first *failure
	failed := 0
	for i, spec := range specs {
		answer, failure := q.propose(ctx, spec)
		if failure != nil {
			p.warn(failure.reason, failure.cause)
			failed++
			if first == nil {
				first = failure
			}
			continue
		}
		statuses[i] = answer.status
		if size == 0 || answer.size > size {
			size, metric = answer.size, answer.metric
		}
	}
	if first != nil {
		err = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", failed, len(specs), first.err)
	}
	if failed >= len(specs) || failed > 0 && size < target.Spec.Replicas {
		if first == nil {
			err = errors.New("the autoscaler has no metrics")
			first = &failure{reason: "InvalidMetricSourceType", cause: err}
		}
		p.set(autoscalingv2.ScalingActive, reason{false, first.reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.cause)})
		return -1, "", statuses, err
	}
	p.set(autoscalingv2.ScalingActive, reason{true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from " + metric})
	return size, metric, statuses, err
}

// selected returns the target's pods, which must be no other autoscaler's.
func (p *pass) selected(text string) (labels.Selector, []*corev1.Pod, error) {
	invalid := func(event, condition, message, told string) error {
		p.recorder.Event(p.autoscaler, corev1.EventTypeWarning, event, message)
		p.set(autoscalingv2.ScalingActive, reason{false, condition, told})
		return errors.New(message)
	}
	if text == "" {
		return nil, nil, invalid("SelectorRequired", "InvalidSelector", "selector is required", "the HPA target's scale is missing a selector")
	}
	selector, err := labels.Parse(text)
	if err != nil {
		message := fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err)
		return nil, nil, invalid("InvalidSelector", "InvalidSelector", message, message)
	}
	pods, err := p.pods.Pods(p.autoscaler.Namespace).List(selector)
	if err != nil {
		return nil, nil, fmt.Errorf("unable to get pods while calculating replica count: %w", err)
	}
	if sharers := p.sharers(selector, pods); len(sharers) > 1 {
		message := fmt.Sprintf("pods by selector %v are controlled by multiple HPAs: %v", text, sharers)
		return nil, nil, invalid("AmbiguousSelector", "AmbiguousSelector", message, message)
	}
	return selector, pods, nil
}

// sharers remembers the autoscaler's selector and returns every autoscaler that
// sizes one of pods.
func (p *pass) sharers(selector labels.Selector, pods []*corev1.Pod) (all []identity) {
	self := identity{p.autoscaler.Namespace, p.autoscaler.Name}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.selectors[self] = selector
	for id, selects := range p.selectors {
		if id.namespace == self.namespace && slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return selects.Matches(labels.Set(pod.Labels)) }) {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, func(a, b identity) int { return cmp.Compare(a.name, b.name) })
	return all
}
