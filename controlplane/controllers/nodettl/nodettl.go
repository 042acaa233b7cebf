package nodettl

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 5

// steps are what holds at which size. They overlap, so that a cluster at the
// edge of one does not change all its nodes for each that comes and goes.
var steps = []struct{ least, most, seconds int }{
	{0, 100, 0},
	{90, 500, 15},
	{450, 1000, 30},
	{900, 2000, 60},
	{1800, math.MaxInt, 300},
}

// size counts nodes, and knows the step that the cluster is at.
type size struct {
	mu          sync.Mutex
	nodes, step int
}

func (s *size) add(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes += n
	for s.nodes > steps[s.step].most {
		s.step++
	}
	for s.nodes < steps[s.step].least {
		s.step--
	}
}

func (s *size) seconds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return steps[s.step].seconds
}

type controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	size   size
	loop   *reconcile.Loop
}

// New makes the controller. Its keys are nodes. After a change of size a node
// gets the new value with its next status, which spreads the writes.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	nodes := env.Informers.Core().V1().Nodes()
	c := &controller{client: env.Client, nodes: nodes.Lister()}
	c.loop = reconcile.NewLoop(env, "nodettl", workers, c.reconcile)
	err := reconcile.Watch(env, nodes.Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(node *corev1.Node) {
			c.size.add(1)
			c.loop.AddObject(node)
		},
		Update: func(_, node *corev1.Node) { c.loop.AddObject(node) },
		Delete: func(*corev1.Node) { c.size.add(-1) },
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

func (c *controller) reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	wanted := c.size.seconds()
	if current, err := strconv.Atoi(node.Annotations[corev1.ObjectTTLAnnotationKey]); err == nil && current == wanted {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"%d"}}}`, corev1.ObjectTTLAnnotationKey, wanted)
	_, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotate node: %w", err)
	}
	return nil
}
