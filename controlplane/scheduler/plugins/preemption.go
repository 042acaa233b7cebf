package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Candidates to compare: a tenth of the nodes, and no fewer than this. The first
// is drawn by lot.
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
		trial := framework.NewTrial(profile, pod, cluster)
		best = findCandidate(trial, pod, cluster, verdicts, recall(trial, cluster, refusals.Memo))
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
	for _, other := range best.node.Nominated {
		if other.Priority < pod.Priority {
			remedy.Cleared = append(remedy.Cleared, other.Object)
		}
	}
	for _, victim := range best.victims {
		remedy.Victims = append(remedy.Victims, victim.Object)
	}
	preemptor, victims := pod.Object, remedy.Victims
	remedy.Act = func(ctx context.Context, hands framework.Hands) error {
		var errs []error
		for _, victim := range victims {
			if hands.Withdraw(victim.UID, errPreempted) {
				preempted(hands.Recorder, victim, preemptor, remedy.Node, " (in kube-scheduler memory).")
				continue
			}
			errs = append(errs, p.evict(ctx, hands.Recorder, victim, preemptor, remedy.Node))
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
		if other.Priority >= pod.Priority {
			return false
		}
		return other.Evicted() || other.Object.DeletionTimestamp != nil &&
			slices.ContainsFunc(other.Object.Status.Conditions, func(c v1.PodCondition) bool {
				return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
			})
	})
}

// findCandidate compares nodes; verdicts says why the others are none.
func findCandidate(trial *framework.Trial, pod *picture.Pod, cluster *picture.Picture, verdicts []*framework.Refusal, known *dryRuns) *candidate {
	nodes, versions, budgets := cluster.Nodes(), cluster.Versions(), budgets{}
	start := rand.IntN(len(verdicts))
	var best *candidate
	found := 0
	for i := range verdicts {
		i = (start + i) % len(verdicts)
		if verdicts[i] == notHelpful {
			continue
		}
		var c *candidate
		var refusal *framework.Refusal
		switch shared := known != nil && trial.Shared(nodes[i]); {
		case shared && known.nodes[i].version == versions[i]:
			c, refusal = known.nodes[i].candidate, known.nodes[i].refusal
		default:
			if c, refusal = victims(trial, pod, cluster, nodes[i], budgets); shared {
				known.nodes[i] = dryRun{version: versions[i], candidate: c, refusal: refusal}
			}
		}
		if c == nil {
			verdicts[i] = refusal
			continue
		}
		if found++; best == nil || c.compare(best) < 0 {
			best = c
		}
		if found >= max(enough, len(nodes)/10) && best.violations == 0 {
			break
		}
	}
	return best
}

// dryRuns is who would have to go from each node for pods that no plugin can
// tell apart: it holds until the node changes, or any budget does.
type dryRuns struct {
	budgets uint64
	nodes   []dryRun // in the order of the picture's nodes
}

type dryRun struct {
	version   uint64 // of the node; 0: none yet
	candidate *candidate
	refusal   *framework.Refusal // why there is no candidate
}

// recall finds in memo what is known for pods like the trial's; nil: where
// something beside the node matters, there is nothing to remember.
func recall(trial *framework.Trial, cluster *picture.Picture, memo map[string]any) *dryRuns {
	if memo == nil || !trial.Alone() {
		return nil
	}
	name := DefaultPreemption{}.Name()
	known, _ := memo[name].(*dryRuns)
	if known == nil || known.budgets != cluster.BudgetsVersion() || len(known.nodes) != len(cluster.Nodes()) {
		known = &dryRuns{budgets: cluster.BudgetsVersion(), nodes: make([]dryRun, len(cluster.Nodes()))}
		memo[name] = known
	}
	return known
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
	preempted(recorder, victim, preemptor, node, "")
	return nil
}

// errPreempted is why a pod that was not bound yet waits again: nothing runs of it,
// so there is nothing to delete.
var errPreempted = errors.New("preempted by DefaultPreemption")

func preempted(recorder events.EventRecorder, victim, preemptor *v1.Pod, node, how string) {
	recorder.Eventf(victim, preemptor, v1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v%s", preemptor.UID, node, how)
}
