package policy

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Gate holds pods back until the kernel enforces the policies that select
// them: a pod's address is known to the API only after its containers have
// begun to start. Pods that no policy selects are not held. Its methods may be
// called by many goroutines at a time.
type Gate struct {
	open     chan struct{} // closed once policies are known
	selected func(*corev1.Pod) bool
	wake     func()

	mu        sync.Mutex
	announced map[string]*announcement // by namespace/name
	turn      int                      // counts announcements
	enforced  int                      // the last one that the kernel knows of
	moved     chan struct{}            // closed when enforced grows
}

// announcement is a pod with addresses that the API need not know yet.
type announcement struct {
	pod  *corev1.Pod
	turn int
	seen bool // among the node's pods in the API
}

// NewGate returns a gate that opens when Run, given it, knows the policies.
func NewGate() *Gate {
	return &Gate{open: make(chan struct{}), announced: map[string]*announcement{}, moved: make(chan struct{})}
}

// gatePatience is how long Pass waits before it gives up.
const gatePatience = 30 * time.Second

// Pass returns once the policies that select a pod are enforced at the
// addresses in its status. An error says that they are not: then none of its
// containers may start.
func (g *Gate) Pass(ctx context.Context, pod *corev1.Pod) error {
	if !hasAddress(pod) {
		return nil // on the host's network
	}
	ctx, cancel := context.WithTimeout(ctx, gatePatience)
	defer cancel()
	select {
	case <-g.open:
	case <-ctx.Done():
		return fmt.Errorf("await network policies: %w", ctx.Err())
	}
	if !g.selected(pod) {
		return nil
	}
	turn := g.announce(pod)
	for {
		g.mu.Lock()
		enforced, moved := g.enforced, g.moved
		g.mu.Unlock()
		if enforced >= turn {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("await that network policies are enforced: %w", ctx.Err())
		}
	}
}

// announce makes a pod's addresses known, and returns the turn in which they
// are. A pod that starts its next container is known already.
func (g *Gate) announce(pod *corev1.Pod) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := pod.Namespace + "/" + pod.Name
	if a := g.announced[key]; a != nil && a.pod.UID == pod.UID && a.pod.Status.PodIP == pod.Status.PodIP {
		return a.turn
	}
	g.turn++
	g.announced[key] = &announcement{pod: pod, turn: g.turn}
	g.wake()
	return g.turn
}

// merge returns the node's pods with the addresses that were announced, and
// the turn that is reached once the kernel knows of them. What has gone from
// the API is forgotten.
func (g *Gate) merge(own cache.Store) (pods []*corev1.Pod, turn int) {
	objects := own.List()
	g.mu.Lock()
	defer g.mu.Unlock()
	left := map[string]*announcement{}
	for _, object := range objects {
		pod, ok := object.(*corev1.Pod)
		if !ok {
			continue
		}
		key := pod.Namespace + "/" + pod.Name
		// A static pod's mirror has another UID.
		_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
		if a := g.announced[key]; a != nil && (a.pod.UID == pod.UID || mirror) {
			a.seen = true
			left[key] = a
			if networked(pod) && !hasAddress(pod) {
				pod = pod.DeepCopy()
				pod.Status.PodIP, pod.Status.PodIPs = a.pod.Status.PodIP, a.pod.Status.PodIPs
			}
		}
		pods = append(pods, pod)
	}
	for key, a := range g.announced {
		if left[key] == nil && !a.seen {
			left[key] = a
			pods = append(pods, a.pod) // the API tells of it later
		}
	}
	g.announced = left
	return pods, g.turn
}

// reached says that the kernel knows what was announced until a turn.
func (g *Gate) reached(turn int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if turn > g.enforced {
		g.enforced = turn
		close(g.moved)
		g.moved = make(chan struct{})
	}
}
