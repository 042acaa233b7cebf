package tainteviction

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 8

type controller struct {
	env      *reconcile.Environment
	client   kubernetes.Interface
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	recorder record.EventRecorder
	loop     *reconcile.Loop

	mu      sync.Mutex
	waiting map[string]time.Time // pods that are to go, by key: since when
}

// New makes the controller. Its keys are pods.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	core := env.Informers.Core().V1()
	c := &controller{
		env:      env,
		client:   env.Client,
		pods:     core.Pods().Lister(),
		nodes:    core.Nodes().Lister(),
		recorder: env.Recorder("taint-eviction-controller"),
		waiting:  map[string]time.Time{},
	}
	c.loop = reconcile.NewLoop(env, "tainteviction", workers, c.reconcile)
	err := reconcile.Watch(env, core.Pods().Informer(), reconcile.Handlers[*corev1.Pod]{
		Add: c.podChanged,
		Update: func(old, pod *corev1.Pod) {
			if old.Spec.NodeName != pod.Spec.NodeName || !equality.Semantic.DeepEqual(old.Spec.Tolerations, pod.Spec.Tolerations) {
				c.podChanged(pod)
			}
		},
		Delete: func(pod *corev1.Pod) { c.podChanged(pod) },
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, core.Nodes().Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(node *corev1.Node) {
			if len(noExecute(node)) > 0 {
				c.nodeChanged(node)
			}
		},
		Update: func(old, node *corev1.Node) {
			if !equality.Semantic.DeepEqual(noExecute(old), noExecute(node)) {
				c.nodeChanged(node)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

func (c *controller) podChanged(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return
	}
	if node, err := c.nodes.Get(pod.Spec.NodeName); err == nil && len(noExecute(node)) > 0 {
		c.loop.AddObject(pod)
	}
}

func (c *controller) nodeChanged(node *corev1.Node) {
	pods, err := c.env.PodsOn(node.Name)
	if err != nil {
		c.loop.Logger().Warn("list the pods of a tainted node", "node", node.Name, "error", err)
		return
	}
	for _, pod := range pods {
		c.loop.AddObject(pod)
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.stay(key)
		return nil
	}
	if err != nil || pod.DeletionTimestamp != nil {
		return err
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	since, waits := c.waiting[key]
	c.mu.Unlock()
	if !waits {
		since = time.Now()
	}
	at, evict := deadline(pod, noExecute(node), since)
	if !evict {
		c.stay(key)
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.mu.Lock()
		c.waiting[key] = since
		c.mu.Unlock()
		// The taints and the pod are looked at again then: a node that has
		// recovered keeps its pods.
		c.loop.AddAfter(key, left)
		return nil
	}
	if err := c.evict(ctx, pod); err != nil {
		return err
	}
	c.forget(key)
	return nil
}

// stay is for pods that do not have to go, or are gone already.
func (c *controller) stay(key string) {
	if c.forget(key) {
		namespace, name := reconcile.Split(key)
		c.recorder.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name},
			corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
	}
}

func (c *controller) forget(key string) (waited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, waited = c.waiting[key]
	delete(c.waiting, key)
	return waited
}

func noExecute(node *corev1.Node) []corev1.Taint {
	var result []corev1.Taint
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute {
			result = append(result, taint)
		}
	}
	return result
}

// deadline is when pod has to leave a node with these taints; evict is false if
// it may stay for ever. Each taint is tolerated for as long as the pod's first
// toleration that matches it says: from when the taint was added, but not from
// before the pod came, or from seen where the taint does not say.
func deadline(pod *corev1.Pod, taints []corev1.Taint, seen time.Time) (at time.Time, evict bool) {
	for i := range taints {
		taint := &taints[i]
		leave, bounded := seen, true
		for j := range pod.Spec.Tolerations {
			toleration := &pod.Spec.Tolerations[j]
			if !tolerates(toleration, taint) {
				continue
			}
			if toleration.TolerationSeconds == nil {
				bounded = false
			} else if seconds := *toleration.TolerationSeconds; seconds > 0 {
				since := seen
				if taint.TimeAdded != nil {
					since = taint.TimeAdded.Time
					if came := arrival(pod); came.After(since) {
						since = came
					}
				}
				leave = since.Add(time.Duration(seconds) * time.Second)
			}
			break
		}
		if bounded && (!evict || leave.Before(at)) {
			at, evict = leave, true
		}
	}
	return at, evict
}

// arrival is when pod was bound to its node, or made where it does not say.
func arrival(pod *corev1.Pod) time.Time {
	if c := reconcile.PodCondition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return pod.CreationTimestamp.Time
}

func tolerates(toleration *corev1.Toleration, taint *corev1.Taint) bool {
	if toleration.Effect != "" && toleration.Effect != taint.Effect || toleration.Key != "" && toleration.Key != taint.Key {
		return false
	}
	switch toleration.Operator {
	case corev1.TolerationOpExists:
		return true
	case "", corev1.TolerationOpEqual:
		return toleration.Value == taint.Value
	}
	return false
}

func (c *controller) evict(ctx context.Context, pod *corev1.Pod) error {
	c.recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", reconcile.Key(pod))
	return reconcile.Disrupt(ctx, c.client, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
}
