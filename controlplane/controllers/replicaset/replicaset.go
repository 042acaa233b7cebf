package replicaset

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 5
	// burst bounds the creations or deletions of one reconciliation.
	burst = 500
)

type controller struct {
	env      *reconcile.Environment
	client   kubernetes.Interface
	source   source
	recorder record.EventRecorder
	loop     *reconcile.Loop
	expected reconcile.Expectations
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	return newController(env, replicaSets(env))
}

func newController(env *reconcile.Environment, source source) (reconcile.Controller, error) {
	c := &controller{env: env, client: env.Client, source: source, recorder: env.Recorder(source.name + "-controller")}
	c.loop = reconcile.NewLoop(env, source.name, workers, c.reconcile)
	if err := reconcile.Each(env, source.informer, func(set metav1.Object) { c.loop.AddObject(set) }); err != nil {
		return nil, err
	}
	err := reconcile.WatchPods(env, reconcile.Owned{Kind: source.kind, Expected: &c.expected, Add: c.loop.Add, Orphan: c.orphanChanged})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

// orphanChanged wakes the replica sets that may adopt pod.
func (c *controller) orphanChanged(pod *corev1.Pod) {
	sets, err := c.source.list(pod.Namespace)
	if err != nil {
		c.loop.Logger().Warn("list replica sets for an orphaned pod", "pod", reconcile.Key(pod), "error", err)
		return
	}
	for _, rs := range sets {
		if s, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(rs)
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	rs, err := c.source.get(namespace, name)
	if apierrors.IsNotFound(err) {
		c.expected.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		c.loop.Logger().Warn("replica set has a selector that cannot be read", "key", key, "error", err)
		return nil
	}
	met := c.expected.Met(key)
	pods, err := c.env.PodsOf(rs, true)
	if err != nil {
		return err
	}
	var active []*corev1.Pod
	terminating := int32(0)
	for _, pod := range pods {
		switch {
		case reconcile.PodActive(pod):
			active = append(active, pod)
		case pod.DeletionTimestamp != nil && !reconcile.PodTerminal(pod) && metav1.IsControlledBy(pod, rs):
			terminating++
		}
	}
	active, err = c.claim(rs, selector).Resolve(ctx, active)
	if err != nil {
		return err
	}
	var manageErr error
	if met && rs.DeletionTimestamp == nil {
		manageErr = c.manage(ctx, key, rs, active)
	}
	now := time.Now()
	status := newStatus(rs, active, terminating, manageErr, now)
	if err := c.writeStatus(ctx, rs, status); err != nil {
		return errors.Join(manageErr, err)
	}
	if manageErr != nil {
		return manageErr
	}
	if wait := nextAvailable(rs, active, now); wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return nil
}

func (c *controller) claim(rs *appsv1.ReplicaSet, selector labels.Selector) reconcile.Claim[*corev1.Pod] {
	return reconcile.Claim[*corev1.Pod]{
		Owner:    rs,
		Kind:     c.source.kind,
		Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.source.fresh(ctx, rs.Namespace, rs.Name)
		},
		Patch: func(ctx context.Context, pod *corev1.Pod, patch []byte) error {
			_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
}

// manage brings the number of active pods nearer to the wanted one.
func (c *controller) manage(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	missing := int(*rs.Spec.Replicas) - len(active)
	switch {
	case missing > 0:
		return c.create(ctx, key, rs, min(missing, burst))
	case missing < 0:
		victims, err := c.victims(rs, active, min(-missing, burst))
		if err != nil {
			return err
		}
		return c.delete(ctx, key, rs, victims)
	}
	return nil
}

func (c *controller) create(ctx context.Context, key string, rs *appsv1.ReplicaSet, n int) error {
	c.expected.ExpectCreations(key, n)
	done, err := reconcile.SlowStart(n, func(int) error {
		pod, err := c.client.CoreV1().Pods(rs.Namespace).Create(ctx, c.newPod(rs), metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			// Nothing can be created any more, and nobody needs to be told.
			c.expected.Created(key)
			return nil
		}
		if err != nil {
			c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
			return fmt.Errorf("create pod: %w", err)
		}
		c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
		return nil
	})
	for range n - done {
		c.expected.Created(key)
	}
	return err
}

func (c *controller) delete(ctx context.Context, key string, rs *appsv1.ReplicaSet, victims []*corev1.Pod) error {
	for _, pod := range victims {
		c.expected.ExpectDeletion(key, pod.UID)
	}
	results := make([]error, len(victims))
	var calls sync.WaitGroup
	for i, pod := range victims {
		calls.Go(func() {
			err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
			switch {
			case err == nil:
				c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
			case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
				c.expected.Deleted(key, pod.UID)
			default:
				c.expected.Deleted(key, pod.UID)
				c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
				results[i] = fmt.Errorf("delete pod %s: %w", pod.Name, err)
			}
		})
	}
	calls.Wait()
	return errors.Join(results...)
}

// newPod is a pod as the template has it.
func (c *controller) newPod(rs *appsv1.ReplicaSet) *corev1.Pod {
	template := rs.Spec.Template.DeepCopy()
	prefix := rs.Name + "-"
	// generateName is cut by the API server to leave room for its suffix.
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    prefix,
			Namespace:       rs.Namespace,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, c.source.kind)},
		},
		Spec: template.Spec,
	}
}
