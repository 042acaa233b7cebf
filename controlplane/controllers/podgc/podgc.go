package podgc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	period = 20 * time.Second
	// quarantine is how long a node has to be missing before its pods go: it
	// may be registering just now.
	quarantine = 40 * time.Second
	// keepFinished is how many finished pods a cluster keeps.
	keepFinished = 12500
)

type controller struct {
	client  kubernetes.Interface
	pods    corelisters.PodLister
	nodes   corelisters.NodeLister
	missing map[string]time.Time // nodes, and since when
	now     func() time.Time
	keep    int
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c := newController(env)
	return reconcile.NewTicker(env, "podgc", period, c.collect), nil
}

func newController(env *reconcile.Environment) *controller {
	return &controller{
		client:  env.Client,
		pods:    env.Informers.Core().V1().Pods().Lister(),
		nodes:   env.Informers.Core().V1().Nodes().Lister(),
		missing: map[string]time.Time{},
		now:     time.Now,
		keep:    keepFinished,
	}
}

func (c *controller) collect(ctx context.Context) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	byName := map[string]*corev1.Node{}
	for _, node := range nodes {
		byName[node.Name] = node
	}
	gone, errs := c.gone(ctx, pods, byName)
	for _, pod := range pods {
		node := byName[pod.Spec.NodeName]
		switch {
		case gone[pod.Spec.NodeName]:
			errs = append(errs, c.remove(ctx, pod, "PodGC: node no longer exists"))
		case pod.DeletionTimestamp != nil && pod.Spec.NodeName == "":
			errs = append(errs, c.remove(ctx, pod, ""))
		case pod.DeletionTimestamp != nil && node != nil && outOfService(node):
			errs = append(errs, c.remove(ctx, pod, ""))
		}
	}
	for _, pod := range excess(pods, c.keep) {
		errs = append(errs, c.remove(ctx, pod, ""))
	}
	return errors.Join(errs...)
}

// gone returns the nodes that pods are bound to and that have been missing for
// long enough, according to the API server too.
func (c *controller) gone(ctx context.Context, pods []*corev1.Pod, nodes map[string]*corev1.Node) (map[string]bool, []error) {
	wanted := map[string]bool{}
	for _, pod := range pods {
		if name := pod.Spec.NodeName; name != "" && nodes[name] == nil {
			wanted[name] = true
		}
	}
	for name := range c.missing {
		if !wanted[name] {
			delete(c.missing, name)
		}
	}
	result := map[string]bool{}
	var errs []error
	for name := range wanted {
		since, ok := c.missing[name]
		if !ok {
			c.missing[name] = c.now()
			continue
		}
		if c.now().Sub(since) < quarantine {
			continue
		}
		_, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			result[name] = true
		case err != nil:
			errs = append(errs, fmt.Errorf("look for node %s: %w", name, err))
		}
	}
	return result, errs
}

func outOfService(node *corev1.Node) bool {
	return !reconcile.NodeReady(node) && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// excess returns the finished pods beyond keep, evicted ones first and then the
// oldest.
func excess(pods []*corev1.Pod, keep int) []*corev1.Pod {
	var finished []*corev1.Pod
	for _, pod := range pods {
		if reconcile.PodTerminal(pod) {
			finished = append(finished, pod)
		}
	}
	if len(finished) <= keep {
		return nil
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int {
		if evicted(a) != evicted(b) {
			if evicted(a) {
				return -1
			}
			return 1
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return finished[:len(finished)-keep]
}

func evicted(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted"
}

// remove marks a pod that has not finished as failed, so that whoever owns it
// learns that it did not finish, and deletes it without grace: nobody is there
// to confirm its end.
func (c *controller) remove(ctx context.Context, pod *corev1.Pod, disruption string) error {
	if !reconcile.PodTerminal(pod) {
		status := map[string]any{"phase": corev1.PodFailed, "observedGeneration": pod.Generation}
		if disruption != "" {
			status["conditions"] = []corev1.PodCondition{{
				Type:               corev1.DisruptionTarget,
				Status:             corev1.ConditionTrue,
				ObservedGeneration: pod.Generation,
				Reason:             "DeletionByPodGC",
				Message:            disruption,
				LastTransitionTime: metav1.NewTime(c.now()),
			}}
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
		if err != nil {
			return err
		}
		_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s failed: %w", reconcile.Key(pod), err)
		}
	}
	now := int64(0)
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now,
		Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s: %w", reconcile.Key(pod), err)
	}
	return nil
}
