package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// podHistory is every change of the namespace's pods, in order, as one watch saw
// them.
type podHistory struct {
	mu  sync.Mutex
	all []watch.Event
}

func (h *podHistory) events() []watch.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

// record watches pods from a version on, until the test ends. A watch that ends
// before fails the test: there would be a hole.
func (c *crashes) record(from string) *podHistory {
	h := &podHistory{}
	ctx, cancel := context.WithCancel(context.Background())
	changes := must(c.Client.CoreV1().Pods(c.namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: from, TimeoutSeconds: ptr.To[int64](3600)}))(c.t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range changes.ResultChan() {
			if _, ok := event.Object.(*corev1.Pod); !ok {
				if ctx.Err() == nil {
					c.t.Errorf("the watch ends: %v", event)
				}
				return
			}
			h.mu.Lock()
			h.all = append(h.all, event)
			h.mu.Unlock()
		}
		if ctx.Err() == nil {
			c.t.Error("the watch has ended")
		}
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return h
}

// judge goes through the history and says what must not have been:
//
//   - more pods of the Deployment than its maxSurge allows, or fewer that are
//     available than its maxUnavailable and the other one's budget allow, once
//     the first healthy events have made it whole;
//   - two pods of a DaemonSet on one node;
//   - a pod of a StatefulSet before those of lower ordinals were ready, or a second
//     one of an ordinal;
//   - two pods at work on one index of a Job, or one more for an index that is done.
func judge(events []watch.Event, healthy int) (faults []string) {
	pods := map[types.UID]*corev1.Pod{}
	done := map[string]bool{} // indexes of jobs that a pod has completed
	for n, event := range events {
		pod := event.Object.(*corev1.Pod)
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Sprintf("event %d, %s %s at %s: ", n, event.Type, pod.Name, pod.ResourceVersion)+fmt.Sprintf(format, args...))
		}
		app, index := pod.Labels["app"], indexOf(pod)
		if event.Type == watch.Added {
			if app == "job" && done[index] {
				fault("index %s is done", index)
			}
			if app == "db" {
				judgeOrdinal(pods, pod, fault)
			}
		}
		if event.Type == watch.Deleted {
			delete(pods, pod.UID)
		} else {
			pods[pod.UID] = pod
		}
		if app == "job" && pod.Status.Phase == corev1.PodSucceeded {
			done[index] = true
		}
		live, available, same := 0, 0, 0
		for _, other := range pods {
			if other.Labels["app"] != app || !isLive(other) {
				continue
			}
			live++
			if isReady(other) {
				available++
			}
			if app == "job" && indexOf(other) == index || app == "agent" && nodeOf(other) == nodeOf(pod) {
				same++
			}
		}
		switch {
		case app == "web" && live > webReplicas+webSurge:
			fault("%d pods, and %d are the most", live, webReplicas+webSurge)
		case app == "web" && n >= healthy && available < webReplicas-webUnavailable:
			fault("%d pods are available, and %d are the least", available, webReplicas-webUnavailable)
		case app == "guarded" && n >= healthy && available < guardedAvailable:
			fault("%d pods are available, and the budget asks for %d", available, guardedAvailable)
		case app == "job" && same > 1:
			fault("%d pods work on index %s", same, index)
		case app == "agent" && same > 1:
			fault("%d pods of the daemon set on node %s", same, nodeOf(pod))
		}
	}
	return faults
}

// judgeOrdinal judges a new pod of the StatefulSet.
func judgeOrdinal(pods map[types.UID]*corev1.Pod, pod *corev1.Pod, fault func(string, ...any)) {
	ordinal := func(p *corev1.Pod) (n int) {
		_, _ = fmt.Sscanf(p.Name, "db-%d", &n)
		return n
	}
	ready := map[int]bool{}
	for _, other := range pods {
		if other.Labels["app"] != "db" {
			continue
		}
		if ordinal(other) == ordinal(pod) {
			fault("a second pod of ordinal %d", ordinal(pod))
		}
		ready[ordinal(other)] = isLive(other) && isReady(other)
	}
	for lower := range ordinal(pod) {
		if !ready[lower] {
			fault("ordinal %d is not ready", lower)
		}
	}
}

func isLive(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// indexOf names the index that a job's pod works on.
func indexOf(p *corev1.Pod) string {
	return p.Labels[batchv1.JobNameLabel] + "/" + p.Annotations[batchv1.JobCompletionIndexAnnotation]
}

// nodeOf is the node that a DaemonSet's pod is for.
func nodeOf(p *corev1.Pod) string {
	if affinity := p.Spec.Affinity; affinity != nil && affinity.NodeAffinity != nil && affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, field := range term.MatchFields {
				return strings.Join(field.Values, ",")
			}
		}
	}
	return p.Spec.NodeName
}

// TestJudge has it find what is wrong on purpose.
func TestJudge(t *testing.T) {
	pod := func(app, name string, phase corev1.PodPhase) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}, Annotations: map[string]string{}},
			Status:     corev1.PodStatus{Phase: phase},
		}
		if phase == corev1.PodRunning {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	of := func(index string, p *corev1.Pod) *corev1.Pod {
		p.Labels[batchv1.JobNameLabel], p.Annotations[batchv1.JobCompletionIndexAnnotation] = "j", index
		return p
	}
	on := func(node string, p *corev1.Pod) *corev1.Pod {
		p.Spec.NodeName = node
		return p
	}
	added := func(pods ...*corev1.Pod) (events []watch.Event) {
		for _, p := range pods {
			events = append(events, watch.Event{Type: watch.Added, Object: p})
		}
		return events
	}
	var full []*corev1.Pod
	for i := range webReplicas + webSurge {
		full = append(full, pod("web", fmt.Sprint("web", i), corev1.PodRunning))
	}
	for name, test := range map[string]struct {
		events  []watch.Event
		healthy int
		want    string
	}{
		"surge":          {added(full...), len(full), ""},
		"too many":       {added(append(full, pod("web", "more", corev1.PodPending))...), 10, "6 pods, and 5 are the most"},
		"too few":        {added(full[:2]...), 1, "2 pods are available, and 3 are the least"},
		"budget":         {added(pod("guarded", "a", corev1.PodRunning)), 0, "the budget asks for 2"},
		"in order":       {added(pod("db", "db-0", corev1.PodRunning), pod("db", "db-1", corev1.PodPending)), 0, ""},
		"out of order":   {added(pod("db", "db-0", corev1.PodPending), pod("db", "db-1", corev1.PodPending)), 0, "ordinal 0 is not ready"},
		"two daemons":    {added(on("n", pod("agent", "a", corev1.PodPending)), on("n", pod("agent", "b", corev1.PodPending))), 0, "2 pods of the daemon set on node n"},
		"indexes":        {added(of("0", pod("job", "a", corev1.PodPending)), of("1", pod("job", "b", corev1.PodPending))), 0, ""},
		"index twice":    {added(of("0", pod("job", "a", corev1.PodPending)), of("0", pod("job", "b", corev1.PodPending))), 0, "2 pods work on index j/0"},
		"failed, again":  {added(of("0", pod("job", "a", corev1.PodFailed)), of("0", pod("job", "b", corev1.PodPending))), 0, ""},
		"done, and more": {added(of("0", pod("job", "a", corev1.PodSucceeded)), of("0", pod("job", "b", corev1.PodPending))), 0, "index j/0 is done"},
	} {
		faults := judge(test.events, test.healthy)
		if (test.want == "") != (len(faults) == 0) || !strings.Contains(strings.Join(faults, "\n"), test.want) {
			t.Errorf("%s: found %q, want %q", name, faults, test.want)
		}
	}
}
