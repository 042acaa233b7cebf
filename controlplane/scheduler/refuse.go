package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/queue"
)

// retryPreemption keeps a preemption that fails at once from being tried all the
// time.
const retryPreemption = time.Second

// refuse parks a pod that fits nowhere, and off the critical path tells why in
// its status and in an event, and carries the remedy out. A pod that others have
// to make room for is parked after that: tried while they are still asked to go,
// it would have more of them asked elsewhere.
func (s *scheduler) refuse(ctx context.Context, item *queue.Item, refusals *framework.Refusals, remedy framework.Remedy, nominated string) {
	pod := item.Pod // as it was tried: parked, it may become another
	if remedy.Act == nil {
		var awaited []types.UID
		if remedy.Keep {
			awaited = item.Awaited
		}
		s.queue.Park(item, refusals.Plugins, awaited)
	}
	s.detach(ctx, func() {
		if !awaitsRoom(pod, nominated) {
			message := explain(refusals, remedy)
			s.note(pod, message)
			if err := s.setNotScheduled(ctx, pod, v1.PodReasonUnschedulable, message, nominated); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				s.logger.Warn("pod's condition not updated", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			}
		}
		for _, other := range remedy.Cleared {
			if err := s.writeNomination(ctx, other, ""); err != nil && !apierrors.IsNotFound(err) {
				s.logger.Warn("nomination not cleared", "pod", other.Namespace+"/"+other.Name, "error", err)
			}
		}
		if remedy.Act == nil {
			return
		}
		err := remedy.Act(ctx, framework.Hands{Recorder: s.recorder, Withdraw: s.withdraw})
		if err != nil {
			s.mu.Lock()
			s.picture.Unnominate(pod.UID)
			for _, victim := range remedy.Victims {
				s.picture.SetEvicted(victim.UID, false)
			}
			s.mu.Unlock()
		}
		var awaited []types.UID
		if err == nil {
			for _, victim := range remedy.Victims {
				awaited = append(awaited, victim.UID)
			}
		}
		s.queue.Park(item, refusals.Plugins, awaited)
		if err == nil || ctx.Err() != nil {
			return
		}
		// The pod is tried again, and finds what is left to be done.
		s.logger.Warn("preemption failed", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryPreemption):
			s.queue.Notify(framework.Event{Kind: framework.PodRemoved})
		}
	})
}

// awaitsRoom says that the pod's status tells already that it waits for others to
// leave the node. Until they have, how many nodes refuse it and why changes with
// every pod that comes or goes anywhere: to write that each time would cost more
// than all else that preemption does.
func awaitsRoom(pod *v1.Pod, node string) bool {
	return node != "" && pod.Status.NominatedNodeName == node && slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable && c.ObservedGeneration == pod.Generation
	})
}

// explain puts refusals and remedy into words.
func explain(refusals *framework.Refusals, remedy framework.Remedy) string {
	if len(refusals.ByNode) == 0 {
		return "no nodes available to schedule pods"
	}
	message := framework.Explain(refusals.ByNode)
	if remedy.Message != "" {
		message += " preemption: " + remedy.Message
	}
	return message
}

// writeNomination puts the node into the pod's status; empty: none.
func (s *scheduler) writeNomination(ctx context.Context, pod *v1.Pod, node string) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"nominatedNodeName": orNil(node)},
	})
	if err != nil {
		return fmt.Errorf("marshal nomination: %w", err)
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// orNil is what a patch has for a text that may be empty: nil removes it.
func orNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// setNotScheduled writes the PodScheduled condition where it says something
// new.
func (s *scheduler) setNotScheduled(ctx context.Context, pod *v1.Pod, reason, message, nominated string) error {
	condition := v1.PodCondition{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(time.Now()), ObservedGeneration: pod.Generation,
	}
	for _, old := range pod.Status.Conditions {
		if old.Type != v1.PodScheduled {
			continue
		}
		if old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
		if old == condition && pod.Status.NominatedNodeName == nominated {
			return nil
		}
	}
	status := map[string]any{"conditions": []v1.PodCondition{condition}}
	if pod.Status.NominatedNodeName != nominated {
		status["nominatedNodeName"] = orNil(nominated)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("marshal condition: %w", err)
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
