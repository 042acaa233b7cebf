package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 4
	// wakeDelay lets a burst of a node's status writes settle.
	wakeDelay = 50 * time.Millisecond
)

type controller struct {
	env      *reconcile.Environment
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	leases   coordinationlisters.LeaseLister
	recorder record.EventRecorder
	now      func() time.Time

	pulses map[string]*pulse // monitor's alone
	pacer  pacer             // monitor's alone
}

// New makes the controller. Two things run in it: a monitor that looks at all
// nodes every few seconds, and a loop that follows changed conditions at once.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c := newController(env)
	loop := reconcile.NewLoop(env, "nodelifecycle", workers, c.follow)
	err := reconcile.Watch(env, env.Informers.Core().V1().Nodes().Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(node *corev1.Node) { loop.Add(node.Name) },
		Update: func(old, node *corev1.Node) {
			if old.Spec.Unschedulable != node.Spec.Unschedulable || !sameConditions(old, node) || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
				loop.AddAfter(node.Name, wakeDelay)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return reconcile.All{loop, reconcile.NewTicker(env, "nodemonitor", period, c.monitor)}, nil
}

func newController(env *reconcile.Environment) *controller {
	return &controller{
		env:      env,
		client:   env.Client,
		nodes:    env.Informers.Core().V1().Nodes().Lister(),
		leases:   env.Informers.Coordination().V1().Leases().Lister(),
		recorder: env.Recorder("node-controller"),
		now:      time.Now,
		pulses:   map[string]*pulse{},
	}
}

func sameConditions(a, b *corev1.Node) bool {
	if len(a.Status.Conditions) != len(b.Status.Conditions) {
		return false
	}
	for i := range a.Status.Conditions {
		if a.Status.Conditions[i].Type != b.Status.Conditions[i].Type || a.Status.Conditions[i].Status != b.Status.Conditions[i].Status {
			return false
		}
	}
	return true
}

// follow brings taints and pods in line with the conditions that a node has.
// It never adds a NoExecute taint; that is paced by the monitor.
func (c *controller) follow(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// A node whose readiness changes from one bad state to the other keeps
	// being emptied.
	ready := readiness(&node.Status)
	evict := ready != corev1.ConditionTrue && (marked(node, corev1.ConditionFalse) || marked(node, corev1.ConditionUnknown))
	if err := c.taint(ctx, node, &node.Status, evict); err != nil {
		return err
	}
	if nodeCondition(&node.Status, corev1.NodeReady) != nil && ready != corev1.ConditionTrue {
		return c.markPods(ctx, node)
	}
	return nil
}

// monitor judges all nodes by their heartbeats.
func (c *controller) monitor(ctx context.Context) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	now := c.now()
	var errs []error
	type count struct{ ready, notReady int }
	zones := map[string]*count{}
	alive := map[string]bool{}
	var candidates []*corev1.Node
	for _, node := range nodes {
		alive[node.Name] = true
		status, err := c.examine(ctx, node, now)
		if err != nil {
			errs = append(errs, fmt.Errorf("examine node %s: %w", node.Name, err))
		}
		zone := zones[zoneOf(node)]
		if zone == nil {
			zone = &count{}
			zones[zoneOf(node)] = zone
		}
		ready := readiness(&status)
		if ready == corev1.ConditionTrue {
			zone.ready++
			continue
		}
		zone.notReady++
		if !marked(node, ready) {
			candidates = append(candidates, node)
		}
	}
	for name := range c.pulses {
		if !alive[name] {
			delete(c.pulses, name)
		}
	}
	anyReady := false
	for _, zone := range zones {
		anyReady = anyReady || zone.ready > 0
	}
	for _, node := range candidates {
		zone := zones[zoneOf(node)]
		// Where no node is ready, there is nowhere for pods to go, and it is
		// most likely us who are cut off.
		if !anyReady || !c.pacer.allow(zoneOf(node), pace(zone.ready, zone.notReady), now) {
			continue
		}
		fresh, err := c.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err == nil && readiness(&fresh.Status) != corev1.ConditionTrue {
			err = c.taint(ctx, fresh, &fresh.Status, true)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mark node %s for eviction: %w", node.Name, err))
		}
	}
	return errors.Join(errs...)
}

// examine returns the status that node has or, if it is silent, now gets.
func (c *controller) examine(ctx context.Context, node *corev1.Node, now time.Time) (corev1.NodeStatus, error) {
	p := c.pulses[node.Name]
	if p == nil {
		p = &pulse{}
		c.pulses[node.Name] = p
	}
	var lease *coordinationv1.Lease
	lease, err := c.leases.Leases(corev1.NamespaceNodeLease).Get(node.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return node.Status, err
	}
	if err != nil {
		lease = nil
	}
	p.observe(node, lease, now)
	status, silent := p.judge(node, now)
	if !silent || !changed(node, &status) {
		return status, nil
	}
	c.env.Logger.Warn("node is silent", "controller", "nodelifecycle", "node", node.Name, "since", now.Sub(p.seen).Round(time.Second))
	updated := node.DeepCopy()
	updated.Status = status
	written, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		return node.Status, fmt.Errorf("write status: %w", err)
	}
	// Our own write is no heartbeat: p.beat is compared with the node's.
	c.recorder.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	if err := c.taint(ctx, written, &status, false); err != nil {
		return status, err
	}
	return status, c.markPods(ctx, node)
}

// taint writes the taints that follow from status.
func (c *controller) taint(ctx context.Context, node *corev1.Node, status *corev1.NodeStatus, evict bool) error {
	taints := wantedTaints(node, status, evict, metav1.NewTime(c.now()))
	if equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		return nil
	}
	updated := node.DeepCopy()
	updated.Spec.Taints = taints
	if _, err := c.client.CoreV1().Nodes().Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write taints: %w", err)
	}
	return nil
}

// markPods takes the pods of a node that is not ready out of service.
func (c *controller) markPods(ctx context.Context, node *corev1.Node) error {
	pods, err := c.env.PodsOn(node.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range pods {
		if !reconcile.PodReady(pod) {
			continue
		}
		updated := pod.DeepCopy()
		ready := reconcile.PodCondition(updated, corev1.PodReady)
		ready.Status = corev1.ConditionFalse
		ready.LastTransitionTime = metav1.NewTime(c.now())
		ready.ObservedGeneration = pod.Generation
		_, err := c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		switch {
		case err == nil:
			c.recorder.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		case !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("mark pod %s not ready: %w", reconcile.Key(pod), err))
		}
	}
	return errors.Join(errs...)
}
