package deployment

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 5

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

type controller struct {
	env         *reconcile.Environment
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	recorder    record.EventRecorder
	loop        *reconcile.Loop
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c := &controller{
		env:         env,
		client:      env.Client,
		deployments: env.Informers.Apps().V1().Deployments().Lister(),
		sets:        env.Informers.Apps().V1().ReplicaSets().Lister(),
		recorder:    env.Recorder("deployment-controller"),
	}
	c.loop = reconcile.NewLoop(env, "deployment", workers, c.reconcile)
	err := reconcile.Each(env, env.Informers.Apps().V1().Deployments().Informer(), func(d *appsv1.Deployment) {
		c.loop.AddObject(d)
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, env.Informers.Apps().V1().ReplicaSets().Informer(), reconcile.Handlers[*appsv1.ReplicaSet]{
		Add: c.setChanged,
		Update: func(old, rs *appsv1.ReplicaSet) {
			if before := owner(old); before != "" && before != owner(rs) {
				c.loop.Add(before)
			}
			c.setChanged(rs)
		},
		Delete: c.setChanged,
	})
	if err != nil {
		return nil, err
	}
	// A deployment that recreates waits for the last old pod to be gone.
	err = reconcile.Watch(env, env.Informers.Core().V1().Pods().Informer(), reconcile.Handlers[*corev1.Pod]{
		Update: func(old, pod *corev1.Pod) {
			if !reconcile.PodTerminal(old) && reconcile.PodTerminal(pod) {
				c.podGone(pod)
			}
		},
		Delete: c.podGone,
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

// owner returns the key of the deployment that controls rs, or "".
func owner(rs *appsv1.ReplicaSet) string {
	ref := metav1.GetControllerOfNoCopy(rs)
	if ref == nil || ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return ""
	}
	return rs.Namespace + "/" + ref.Name
}

func (c *controller) setChanged(rs *appsv1.ReplicaSet) {
	if key := owner(rs); key != "" {
		c.loop.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(rs) != nil || rs.DeletionTimestamp != nil || len(rs.Labels) == 0 {
		return
	}
	found, err := c.deployments.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list deployments for an orphaned replica set", "replicaSet", reconcile.Key(rs), "error", err)
		return
	}
	for _, d := range found {
		if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(rs.Labels)) {
			c.loop.AddObject(d)
		}
	}
}

func (c *controller) podGone(pod *corev1.Pod) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(pod.Namespace).Get(ref.Name)
	if err != nil {
		return // the replica set's own deletion wakes the deployment
	}
	namespace, name := reconcile.Split(owner(rs))
	if d, err := c.deployments.Deployments(namespace).Get(name); err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.loop.AddObject(d)
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	cached, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	err = c.sync(ctx, cached.DeepCopy())
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // nothing can be created there any more
	}
	return err
}

// sync takes one step for d, a copy of its own.
func (c *controller) sync(ctx context.Context, d *appsv1.Deployment) error {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		c.recorder.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return nil
	}
	sets, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	r := c.newRollout(d, sets)
	if d.DeletionTimestamp != nil {
		return r.writeStatus(ctx, r.status())
	}
	if err := r.markPaused(ctx); err != nil {
		return err
	}
	if err := r.syncRevision(ctx); err != nil {
		return err
	}
	switch {
	case d.Spec.Paused:
		return r.resize(ctx)
	case r.replicasChanged():
		return r.resize(ctx)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return r.recreate(ctx)
	case d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		return r.roll(ctx)
	}
	return fmt.Errorf("deployment strategy %q is not known", d.Spec.Strategy.Type)
}

func (c *controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	candidates, err := c.env.ReplicaSetsOf(d, true)
	if err != nil {
		return nil, err
	}
	return reconcile.Claim[*appsv1.ReplicaSet]{
		Owner:    d,
		Kind:     kind,
		Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, rs *appsv1.ReplicaSet, patch []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}.Resolve(ctx, candidates)
}
