package nodelifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/node/topology"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 4
	// wakeDelay lets a burst of a node's status writes settle.
	wakeDelay = 50 * time.Millisecond
	// labelExcluded keeps a node from being counted when its zone is judged.
	labelExcluded = "node.kubernetes.io/exclude-disruption"
)

type controller struct {
	env      *reconcile.Environment
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	leases   coordinationlisters.LeaseLister
	recorder record.EventRecorder
	now      func() time.Time

	// What follows is the monitor's alone.
	pulses    map[string]*pulse
	pacer     pacer
	disrupted bool // no node was ready when last looked
}

// New makes the controller. Two things run in it: a monitor that looks at all
// nodes every few seconds, and a loop that follows changed conditions at once.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c := newController(env)
	loop := reconcile.NewLoop(env, "nodelifecycle", workers, c.follow)
	err := reconcile.Watch(env, env.Informers.Core().V1().Nodes().Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(node *corev1.Node) { loop.Add(node.Name) },
		Update: func(old, node *corev1.Node) {
			if old.Spec.Unschedulable != node.Spec.Unschedulable || !sameConditions(old, node) ||
				!equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) || !maps.Equal(old.Labels, node.Labels) {
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
	if err := c.label(ctx, node); err != nil {
		return err
	}
	// Nobody else says Unknown. A node that says itself that it is not ready
	// knows best which of its pods are.
	if condition := nodeCondition(&node.Status, corev1.NodeReady); condition != nil && condition.Status == corev1.ConditionUnknown {
		return c.markPods(ctx, node)
	}
	return nil
}

// label keeps the labels of old names what those of today say.
func (c *controller) label(ctx context.Context, node *corev1.Node) error {
	stale := map[string]string{}
	for today, old := range map[string]string{corev1.LabelOSStable: "beta.kubernetes.io/os", corev1.LabelArchStable: "beta.kubernetes.io/arch"} {
		if value, ok := node.Labels[today]; ok && node.Labels[old] != value {
			stale[old] = value
		}
	}
	if len(stale) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": stale}})
	if err != nil {
		return err
	}
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write labels: %w", err)
	}
	return nil
}

// count is how many nodes of a zone are ready and not.
type count struct{ ready, notReady int }

// monitor judges all nodes by their heartbeats.
func (c *controller) monitor(ctx context.Context) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	now := c.now()
	var errs []error
	zones := map[string]count{}
	alive := map[string]bool{}
	var candidates []*corev1.Node
	for _, node := range nodes {
		alive[node.Name] = true
		status, err := c.examine(ctx, node, now)
		if err != nil {
			errs = append(errs, fmt.Errorf("examine node %s: %w", node.Name, err))
		}
		ready := readiness(&status)
		if _, excluded := node.Labels[labelExcluded]; !excluded {
			zone := zones[topology.GetZoneKey(node)]
			if ready == corev1.ConditionTrue {
				zone.ready++
			} else {
				zone.notReady++
			}
			zones[topology.GetZoneKey(node)] = zone
		}
		if nodeCondition(&status, corev1.NodeReady) != nil && ready != corev1.ConditionTrue && !marked(node, ready) {
			candidates = append(candidates, node)
		}
	}
	for name, p := range c.pulses {
		if !alive[name] {
			delete(c.pulses, name)
			c.event(name, p.uid, "RemovingNode", fmt.Sprintf("Removing Node %s from Controller", name))
		}
	}
	if lost(zones) {
		// There is nowhere for pods to go, and it is most likely us who are
		// cut off.
		if !c.disrupted {
			errs = append(errs, c.relent(ctx, nodes))
		}
		c.disrupted = true
		return errors.Join(errs...)
	}
	c.disrupted = false
	for _, node := range candidates {
		name := topology.GetZoneKey(node)
		if zone := zones[name]; !c.pacer.allow(name, pace(zone.ready, zone.notReady), now) {
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

// lost reports whether no node is ready anywhere.
func lost(zones map[string]count) bool {
	for _, zone := range zones {
		if zone.ready > 0 {
			return false
		}
	}
	return true
}

// relent stops the emptying of nodes that has begun.
func (c *controller) relent(ctx context.Context, nodes []*corev1.Node) error {
	c.env.Logger.Warn("no node is ready; none is emptied until one is", "controller", "nodelifecycle", "nodes", len(nodes))
	var errs []error
	for _, node := range nodes {
		if !marked(node, corev1.ConditionFalse) && !marked(node, corev1.ConditionUnknown) {
			continue
		}
		fresh, err := c.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err == nil {
			fresh.Spec.Taints = slices.DeleteFunc(fresh.Spec.Taints, func(t corev1.Taint) bool {
				return t.Effect == corev1.TaintEffectNoExecute && slices.Contains(evicting, t.Key)
			})
			_, err = c.client.CoreV1().Nodes().Update(ctx, fresh, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("take node %s back from eviction: %w", node.Name, err))
		}
	}
	return errors.Join(errs...)
}

// event is recorded for a node that may be gone.
func (c *controller) event(name string, uid types.UID, reason, message string) {
	c.recorder.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: uid},
		corev1.EventTypeNormal, reason, "Node %s event: %s", name, message)
}

// examine returns the status that node has or, if it is silent, now gets.
func (c *controller) examine(ctx context.Context, node *corev1.Node, now time.Time) (corev1.NodeStatus, error) {
	p := c.pulses[node.Name]
	if p == nil {
		p = &pulse{}
		c.pulses[node.Name] = p
		c.event(node.Name, node.UID, "RegisteredNode", fmt.Sprintf("Registered Node %s in Controller", node.Name))
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
