package proportional

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/hostconfig"
)

const workers = 1

type controller struct {
	client      kubernetes.Interface
	nodes       corelisters.NodeLister
	deployments appslisters.DeploymentLister
	loop        *reconcile.Loop
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	nodes, deployments := env.Informers.Core().V1().Nodes(), env.Informers.Apps().V1().Deployments()
	c := &controller{client: env.Client, nodes: nodes.Lister(), deployments: deployments.Lister()}
	c.loop = reconcile.NewLoop(env, "proportional", workers, c.reconcile)
	if err := reconcile.Each(env, deployments.Informer(), c.add); err != nil {
		return nil, err
	}
	err := reconcile.Watch(env, nodes.Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(*corev1.Node) { c.addAll() },
		Update: func(old, node *corev1.Node) {
			if usable(old) != usable(node) || !old.Status.Capacity.Cpu().Equal(*node.Status.Capacity.Cpu()) {
				c.addAll()
			}
		},
		Delete: func(*corev1.Node) { c.addAll() },
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

// add has a Deployment looked at, if it asks for that.
func (c *controller) add(deployment *appsv1.Deployment) {
	_, nodes := deployment.Annotations[hostconfig.AnnotationNodesPerReplica]
	_, cores := deployment.Annotations[hostconfig.AnnotationCoresPerReplica]
	if nodes || cores {
		c.loop.Add(deployment.Namespace + "/" + deployment.Name)
	}
}

func (c *controller) addAll() {
	all, err := c.deployments.List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list deployments", "error", err)
		return
	}
	for _, deployment := range all {
		c.add(deployment)
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	deployment, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && deployment.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	have := int32(1)
	if deployment.Spec.Replicas != nil {
		have = *deployment.Spec.Replicas
	}
	want, err := replicas(deployment.Annotations, nodes, have)
	if err != nil {
		// Trying again does not help; a change of the annotations does.
		c.loop.Logger().Warn("deployment does not say how to grow with the cluster", "deployment", key, "error", err)
		return nil
	}
	if want == have {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"replicas":%d}}`, deployment.UID, want)
	if _, err := c.client.AppsV1().Deployments(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("set replicas: %w", err)
	}
	return nil
}

// replicas returns how many a Deployment that has some shall have.
func replicas(annotations map[string]string, nodes []*corev1.Node, have int32) (int32, error) {
	var all, ready size
	for _, node := range nodes {
		all.add(node)
		if usable(node) {
			ready.add(node)
		}
	}
	least, err := ready.replicas(annotations)
	if err != nil {
		return 0, err
	}
	most, err := all.replicas(annotations)
	if err != nil || most == 0 {
		return have, err
	}
	return min(max(have, least), most), nil
}

// usable tells whether pods can come to a node, unless it is cordoned.
func usable(node *corev1.Node) bool {
	return !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
	})
}

// size is that of a cluster.
type size struct{ nodes, milliCores int64 }

func (s *size) add(node *corev1.Node) {
	s.nodes++
	s.milliCores += node.Status.Capacity.Cpu().MilliValue()
}

// replicas returns how many annotations ask for: by what asks for more, and two at
// least where there are two nodes, so that one may fail. It returns 0 if no
// annotation asks or there are no nodes.
func (s size) replicas(annotations map[string]string) (int32, error) {
	want := int64(0)
	for _, ask := range []struct {
		annotation string
		have, unit int64
	}{{hostconfig.AnnotationNodesPerReplica, s.nodes, 1}, {hostconfig.AnnotationCoresPerReplica, s.milliCores, 1000}} {
		text, asked := annotations[ask.annotation]
		if !asked {
			continue
		}
		per, err := strconv.ParseInt(text, 10, 32)
		if err != nil || per < 1 {
			return 0, fmt.Errorf("annotation %s is %q, not a positive number", ask.annotation, text)
		}
		per *= ask.unit
		want = max(want, min(s.nodes, 2), (ask.have+per-1)/per)
	}
	return int32(want), nil
}
