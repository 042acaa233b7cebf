package pods

import (
	"cmp"
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ShutdownGroup is how long pods from a priority on get when the host goes
// down.
type ShutdownGroup struct {
	Priority int32
	Grace    time.Duration
}

const (
	shutdownReason  = "Terminated"
	shutdownMessage = "Pod was terminated in response to imminent node shutdown."
	shutdownPoll    = 100 * time.Millisecond
	shutdownTelling = 3 * time.Second // how long the API may take to hear that pods have ended
)

// ShuttingDown says that the host is going down.
func (a *Agent) ShuttingDown() bool { return a.down.Load() }

// Shutdown ends all pods because the host goes down, the least important group
// first, and lets no new ones in. It returns when they have ended, or had their
// time.
func (a *Agent) Shutdown(ctx context.Context, groups []ShutdownGroup) {
	a.down.Store(true)
	if node := a.Config.Node(); node != nil {
		a.Recorder.Event(&v1.ObjectReference{Kind: "Node", Name: node.Name, UID: types.UID(node.Name)},
			v1.EventTypeNormal, "Shutdown", "Shutdown manager detected shutdown event")
	}
	for i, pods := range byPriority(groups, a.ledger.rooms()) {
		a.endForShutdown(ctx, pods, sorted(groups)[i].Grace)
	}
}

func (a *Agent) endForShutdown(ctx context.Context, pods []*v1.Pod, most time.Duration) {
	if len(pods) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for _, pod := range pods {
		grace := int64(most / time.Second)
		if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
			grace = min(grace, *own)
		}
		a.mu.Lock()
		w := a.workers[pod.UID]
		a.mu.Unlock()
		if w != nil {
			w.finishWith(&End{Phase: v1.PodFailed, Reason: shutdownReason, Message: shutdownMessage,
				Disrupted: v1.PodReasonTerminationByKubelet, Grace: grace, Since: time.Now()})
		}
	}
	ticker := time.NewTicker(shutdownPoll)
	defer ticker.Stop()
	var ended time.Time
	for {
		left, untold := 0, 0
		for _, pod := range pods {
			a.mu.Lock()
			w := a.workers[pod.UID]
			a.mu.Unlock()
			switch {
			case slices.ContainsFunc(a.ledger.rooms(), func(room *v1.Pod) bool { return room.UID == pod.UID }):
				left++
			case w != nil && !w.settled.Load():
				untold++
			}
		}
		if left == 0 && ended.IsZero() {
			ended = time.Now()
		}
		// The API may be gone already; but if it is there, it shall know.
		if left == 0 && (untold == 0 || time.Since(ended) > shutdownTelling) {
			a.Logger.Info("ended pods for the shutdown", "pods", len(pods))
			return
		}
		select {
		case <-ctx.Done():
			a.Logger.Warn("pods take longer to end than the shutdown can wait", "pods", left)
			return
		case <-ticker.C:
		}
	}
}

// refuse says why the host does not take the pod though it may have room; an
// empty reason takes it.
func (a *Agent) refuse(pod *v1.Pod) (reason, message string) {
	if a.ShuttingDown() {
		return "NodeShutdown", "Pod was rejected as the node is shutting down."
	}
	if reason, message := mayRun(pod, hostHasAppArmor()); reason != "" {
		return reason, message
	}
	return a.evictions.Admit(pod)
}

func sorted(groups []ShutdownGroup) []ShutdownGroup {
	groups = slices.Clone(groups)
	slices.SortFunc(groups, func(a, b ShutdownGroup) int { return cmp.Compare(a.Priority, b.Priority) })
	return groups
}

// byPriority puts every pod into the highest group that it reaches, or into
// the lowest. Groups come in the order of their priorities.
func byPriority(groups []ShutdownGroup, pods []*v1.Pod) [][]*v1.Pod {
	if len(groups) == 0 {
		return nil
	}
	lists := make([][]*v1.Pod, len(groups))
	for _, pod := range pods {
		priority := int32(0)
		if p := pod.Spec.Priority; p != nil {
			priority = *p
		}
		at := 0
		for i, g := range sorted(groups) {
			if g.Priority <= priority {
				at = i
			}
		}
		lists[at] = append(lists[at], pod)
	}
	return lists
}
