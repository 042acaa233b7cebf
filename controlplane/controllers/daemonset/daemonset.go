package daemonset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"

	"clusterctl/controlplane/controllers/history"
	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 2
	// burst bounds the creations and the deletions of one reconciliation.
	burst = 250
	// A pod that fails is replaced after firstBackoff, then twice that, up to
	// lastBackoff.
	firstBackoff = time.Second
	lastBackoff  = 15 * time.Minute
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

type controller struct {
	env       *reconcile.Environment
	client    kubernetes.Interface
	sets      appslisters.DaemonSetLister
	nodes     corelisters.NodeLister
	revisions history.Keeper
	recorder  record.EventRecorder
	loop      *reconcile.Loop
	expected  reconcile.Expectations
	failures  *flowcontrol.Backoff // by set, generation and node
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	sets := env.Informers.Apps().V1().DaemonSets()
	revisions := env.Informers.Apps().V1().ControllerRevisions()
	revisions.Informer() // asks for it to be started
	c := &controller{
		env:       env,
		client:    env.Client,
		sets:      sets.Lister(),
		nodes:     env.Informers.Core().V1().Nodes().Lister(),
		revisions: history.Keeper{Client: env.Client, Lister: revisions.Lister()},
		recorder:  env.Recorder("daemonset-controller"),
		failures:  flowcontrol.NewBackOff(firstBackoff, lastBackoff),
	}
	c.loop = reconcile.NewLoop(env, "daemonset", workers, c.reconcile)
	if err := reconcile.Each(env, sets.Informer(), func(ds *appsv1.DaemonSet) { c.loop.AddObject(ds) }); err != nil {
		return nil, err
	}
	err := reconcile.WatchPods(env, reconcile.Owned{Kind: kind, Expected: &c.expected, Add: c.loop.Add, Orphan: c.orphanChanged})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, env.Informers.Core().V1().Nodes().Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(*corev1.Node) { c.addAll() },
		Update: func(old, node *corev1.Node) {
			if !maps.Equal(old.Labels, node.Labels) || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
				c.addAll()
			}
		},
		Delete: func(*corev1.Node) { c.addAll() },
	})
	if err != nil {
		return nil, err
	}
	forget := reconcile.NewTicker(env, "daemonset-backoff", time.Minute, func(context.Context) error {
		c.failures.GC()
		return nil
	})
	return reconcile.All{c.loop, forget}, nil
}

// addAll wakes every set: a node has come, changed or gone.
func (c *controller) addAll() {
	sets, err := c.sets.List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list daemon sets for a node", "error", err)
		return
	}
	for _, ds := range sets {
		c.loop.AddObject(ds)
	}
}

// orphanChanged wakes the sets that may adopt pod.
func (c *controller) orphanChanged(pod *corev1.Pod) {
	sets, err := c.sets.DaemonSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list daemon sets for an orphaned pod", "pod", reconcile.Key(pod), "error", err)
		return
	}
	for _, ds := range sets {
		if s, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(ds)
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	ds, err := c.sets.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expected.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		c.recorder.Eventf(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if ds.DeletionTimestamp != nil {
		return nil
	}
	met := c.expected.Met(key)
	pods, err := c.pods(ctx, ds, selector)
	if err != nil {
		return err
	}
	owner := history.Owner{
		Object: ds, Kind: kind, Selector: selector, Template: &ds.Spec.Template,
		Collisions: ds.Status.CollisionCount, Limit: ds.Spec.RevisionHistoryLimit, Fresh: c.fresh(ds),
	}
	revisions, err := c.revisions.Resolve(ctx, owner)
	if err != nil {
		return err
	}
	hash := revisions.Update.Labels[appsv1.ControllerRevisionHashLabelKey]
	now := time.Now()
	v := view{ds: ds, hash: hash, byNode: pods, now: now, backoff: func(node string) bool { return c.holds(ds, node, now) }}
	if v.nodes, err = c.nodes.List(labels.Everything()); err != nil {
		return err
	}
	next := decision{}
	var stepErr error
	if met {
		next = v.decide()
		stepErr = errors.Join(c.remove(ctx, key, ds, next.remove[:min(burst, len(next.remove))]),
			c.create(ctx, key, ds, hash, next.create[:min(burst, len(next.create))]))
	}
	status := newStatus(v, revisions.Collisions, &next)
	if !met {
		status.ObservedGeneration = ds.Status.ObservedGeneration // nothing was done for this one yet
	}
	if err := c.writeStatus(ctx, ds, status); err != nil {
		return errors.Join(stepErr, err)
	}
	if stepErr != nil {
		return stepErr
	}
	if next.wait > 0 {
		c.loop.AddAfter(key, next.wait)
	}
	used := map[string]bool{}
	for _, onNode := range pods {
		for _, pod := range onNode {
			used[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
		}
	}
	return c.revisions.Trim(ctx, owner, revisions, func(name string) bool {
		r := revisions.Named(name)
		return r != nil && used[r.Labels[appsv1.ControllerRevisionHashLabelKey]]
	})
}

// holds reports whether the back-off of a node lasts, and starts the next one
// if it does not.
func (c *controller) holds(ds *appsv1.DaemonSet, node string, now time.Time) bool {
	id := fmt.Sprintf("%s/%d/%s", ds.UID, ds.Status.ObservedGeneration, node)
	if c.failures.IsInBackOffSinceUpdate(id, now) {
		c.loop.AddAfter(reconcile.Key(ds), c.failures.Get(id))
		return true
	}
	c.failures.Next(id, now)
	return false
}

func (c *controller) fresh(ds *appsv1.DaemonSet) func(context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(ds.Namespace).Get(ctx, ds.Name, metav1.GetOptions{})
	}
}

// pods returns the pods of ds by node, those adopted now too.
func (c *controller) pods(ctx context.Context, ds *appsv1.DaemonSet, selector labels.Selector) (map[string][]*corev1.Pod, error) {
	all, err := c.env.PodsOf(ds, true)
	if err != nil {
		return nil, err
	}
	claimed, err := reconcile.Claim[*corev1.Pod]{
		Owner: ds, Kind: kind, Selector: selector, Fresh: c.fresh(ds),
		Patch: func(ctx context.Context, pod *corev1.Pod, patch []byte) error {
			_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}.Resolve(ctx, all)
	if err != nil {
		return nil, err
	}
	byNode := map[string][]*corev1.Pod{}
	for _, pod := range claimed {
		if reconcile.PodTerminal(pod) && pod.DeletionTimestamp != nil {
			continue // somebody's finalizer keeps what is over
		}
		if node := target(pod); node != "" {
			byNode[node] = append(byNode[node], pod)
		}
	}
	return byNode, nil
}

func (c *controller) create(ctx context.Context, key string, ds *appsv1.DaemonSet, hash string, nodes []string) error {
	c.expected.ExpectCreations(key, len(nodes))
	done, err := reconcile.SlowStart(len(nodes), func(i int) error {
		pod, err := c.client.CoreV1().Pods(ds.Namespace).Create(ctx, newPod(ds, nodes[i], hash), metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.expected.Created(key)
			return nil
		}
		if err != nil {
			c.recorder.Eventf(ds, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
			return fmt.Errorf("create pod for node %s: %w", nodes[i], err)
		}
		c.recorder.Eventf(ds, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
		return nil
	})
	for range len(nodes) - done {
		c.expected.Created(key)
	}
	return err
}

func (c *controller) remove(ctx context.Context, key string, ds *appsv1.DaemonSet, pods []*corev1.Pod) error {
	_, err := reconcile.SlowStart(len(pods), func(i int) error {
		pod := pods[i]
		switch pod.Status.Phase {
		case corev1.PodFailed:
			c.recorder.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s on node %s, will try to kill it", reconcile.Key(pod), target(pod))
		case corev1.PodSucceeded:
			c.recorder.Eventf(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s on node %s, will try to delete it", reconcile.Key(pod), target(pod))
		}
		c.expected.ExpectDeletion(key, pod.UID)
		err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		if err == nil {
			c.recorder.Eventf(ds, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
			return nil
		}
		c.expected.Deleted(key, pod.UID)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		c.recorder.Eventf(ds, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	})
	return err
}
