package plugins

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/metrics"
	"clusterctl/controlplane/scheduler/picture"
)

// DefaultPreemption makes room for a pod that fits nowhere, by deleting less
// important pods from the node where that does the least harm. See victims.go
// for which pods have to go.
type DefaultPreemption struct{ Client kubernetes.Interface }

func (DefaultPreemption) Name() string { return "DefaultPreemption" }

// enough candidates to compare; the first is drawn by lot.
const enough = 100

var (
	notHelpful = framework.RefuseFinally("Preemption is not helpful for scheduling")
	noVictims  = framework.RefuseFinally("No preemption victims found for incoming pod")
)

func (p DefaultPreemption) PostFilter(profile *framework.Profile, pod *picture.Pod, cluster *picture.Picture, refusals *framework.Refusals) framework.Remedy {
	if policy := pod.Object.Spec.PreemptionPolicy; policy != nil && *policy == v1.PreemptNever {
		return framework.Remedy{Keep: true, Message: "not eligible due to preemptionPolicy=Never."}
	}
	if awaitsVictims(pod, cluster) {
		return framework.Remedy{Keep: true, Message: "not eligible due to a terminating pod on the nominated node."}
	}
	verdicts := make([]*framework.Refusal, len(refusals.ByNode))
	for i, refusal := range refusals.ByNode {
		if verdicts[i] = noVictims; refusal.Final {
			verdicts[i] = notHelpful
		}
	}
	var best *candidate
	if lowest, ok := cluster.LowestPriority(); ok && lowest < pod.Priority {
		best = findCandidate(profile, pod, cluster, verdicts)
	}
	if best == nil {
		metrics.Preemption(0)
		if len(verdicts) == 0 {
			return framework.Remedy{}
		}
		return framework.Remedy{Message: framework.Explain(verdicts)}
	}
	metrics.Preemption(len(best.victims))
	remedy := framework.Remedy{Node: best.node.Name()}
	for _, other := range cluster.NominatedOn(remedy.Node) {
		if other.Priority < pod.Priority {
			remedy.Cleared = append(remedy.Cleared, other.Object)
		}
	}
	for _, victim := range best.victims {
		remedy.Victims = append(remedy.Victims, victim.Object)
	}
	preemptor, victims := pod.Object, remedy.Victims
	remedy.Act = func(ctx context.Context, recorder events.EventRecorder) error {
		var errs []error
		for _, victim := range victims {
			errs = append(errs, p.evict(ctx, recorder, victim, preemptor, remedy.Node))
		}
		return errors.Join(errs...)
	}
	return remedy
}

// awaitsVictims says that earlier victims of the pod have not gone yet.
func awaitsVictims(pod *picture.Pod, cluster *picture.Picture) bool {
	n := cluster.Node(cluster.NominatedTo(pod.Object.UID))
	if n == nil {
		return false
	}
	return slices.ContainsFunc(n.Pods, func(other *picture.Pod) bool {
		return other.Object.DeletionTimestamp != nil && other.Priority < pod.Priority &&
			slices.ContainsFunc(other.Object.Status.Conditions, func(c v1.PodCondition) bool {
				return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
			})
	})
}

// findCandidate compares nodes; verdicts says why the others are none.
func findCandidate(profile *framework.Profile, pod *picture.Pod, cluster *picture.Picture, verdicts []*framework.Refusal) *candidate {
	trial := framework.NewTrial(profile, pod, cluster)
	budgets := budgets{}
	start := rand.IntN(len(verdicts))
	var best *candidate
	found := 0
	for i := range verdicts {
		i = (start + i) % len(verdicts)
		if verdicts[i] == notHelpful {
			continue
		}
		c, refusal := victims(trial, pod, cluster, cluster.Nodes()[i], budgets)
		if c == nil {
			verdicts[i] = refusal
			continue
		}
		if found++; best == nil || c.compare(best) < 0 {
			best = c
		}
		if found >= enough && best.violations == 0 {
			break
		}
	}
	return best
}

// compare is negative where c does less harm than o: by budgets violated, by
// the most important victim, by the sum of their priorities, by their number,
// and by how short the most important of them have run.
func (c *candidate) compare(o *candidate) int {
	sum := func(c *candidate) (sum int64) {
		for _, victim := range c.victims {
			sum += int64(victim.Priority) - math.MinInt32
		}
		return sum
	}
	top := func(c *candidate) (priority int32, earliest time.Time) {
		for i, victim := range c.victims {
			started := startOf(victim.Object)
			switch {
			case i == 0 || victim.Priority > priority:
				priority, earliest = victim.Priority, started
			case victim.Priority == priority && started.Before(earliest):
				earliest = started
			}
		}
		return priority, earliest
	}
	priority, earliest := top(c)
	otherPriority, otherEarliest := top(o)
	return cmp.Or(
		cmp.Compare(c.violations, o.violations),
		cmp.Compare(priority, otherPriority),
		cmp.Compare(sum(c), sum(o)),
		cmp.Compare(len(c.victims), len(o.victims)),
		otherEarliest.Compare(earliest),
	)
}

// evict tells a victim why, and deletes it.
func (p DefaultPreemption) evict(ctx context.Context, recorder events.EventRecorder, victim, preemptor *v1.Pod, node string) error {
	if victim.DeletionTimestamp != nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": victim.UID},
		"status": map[string]any{"conditions": []v1.PodCondition{{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler,
			Message:            preemptor.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
			LastTransitionTime: metav1.NewTime(time.Now()), ObservedGeneration: victim.Generation,
		}}},
	})
	if err != nil {
		return fmt.Errorf("marshal condition of victim: %w", err)
	}
	pods := p.Client.CoreV1().Pods(victim.Namespace)
	_, err = pods.Patch(ctx, victim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err == nil {
		err = pods.Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
	}
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil // gone, and perhaps another of its name has come
	case err != nil:
		return fmt.Errorf("preempt %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	recorder.Eventf(victim, preemptor, v1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", preemptor.UID, node)
	return nil
}
