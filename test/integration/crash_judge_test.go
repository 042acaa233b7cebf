package integration

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// history is every change of the namespace's pods and of what makes them, as
// watches saw them.
type history struct {
	mu      sync.Mutex
	all     []watch.Event
	created chan struct{} // has one while a pod was created that nobody waited for
}

// events are the changes so far, in the order in which they were made: one store
// counts the versions of all.
func (h *history) events(t *testing.T) []watch.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	version := func(e watch.Event) uint64 {
		return must(strconv.ParseUint(e.Object.(metav1.Object).GetResourceVersion(), 10, 64))(t)
	}
	slices.SortStableFunc(h.all, func(a, b watch.Event) int { return cmp.Compare(version(a), version(b)) })
	return slices.Clone(h.all)
}

// record watches pods and their makers from a version on, until the test ends. A
// watch that the server ends, as it does with a slow client's, goes on where it was.
func (c *crashes) record(from string) *history {
	h := &history{created: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var watches sync.WaitGroup
	for _, watched := range []interface {
		Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
	}{
		c.Client.CoreV1().Pods(c.namespace), c.Client.AppsV1().Deployments(c.namespace),
		c.Client.AppsV1().ReplicaSets(c.namespace), c.Client.BatchV1().Jobs(c.namespace),
	} {
		watches.Go(func() {
			for last := from; ctx.Err() == nil; {
				changes, err := watched.Watch(ctx, metav1.ListOptions{ResourceVersion: last, TimeoutSeconds: ptr.To[int64](3600)})
				switch {
				case err != nil && (apierrors.IsGone(err) || apierrors.IsResourceExpired(err)):
					c.t.Errorf("the watch cannot go on, and there is a hole: %v", err)
					return
				case err != nil:
					time.Sleep(50 * time.Millisecond)
					continue
				}
				for event := range changes.ResultChan() {
					if event.Type == watch.Error {
						if ctx.Err() == nil {
							c.t.Errorf("the watch ends, and there is a hole: %v", event)
						}
						return
					}
					last = event.Object.(metav1.Object).GetResourceVersion()
					h.add(event)
				}
			}
		})
	}
	c.t.Cleanup(func() { cancel(); watches.Wait() })
	return h
}

func (h *history) add(event watch.Event) {
	h.mu.Lock()
	h.all = append(h.all, event)
	h.mu.Unlock()
	if _, ok := event.Object.(*corev1.Pod); ok && event.Type == watch.Added {
		select {
		case h.created <- struct{}{}:
		default:
		}
	}
}

// awaitCreation returns when the next pod is created, or after a while without.
func (h *history) awaitCreation() {
	select {
	case <-h.created:
	default:
	}
	select {
	case <-h.created:
	case <-time.After(time.Second):
	}
}

// judge goes through the history and says what must not have been:
//
//   - more pods of a Deployment than its maxSurge allows, or fewer that are
//     available than its maxUnavailable allows: see rollout;
//   - a size of a Deployment beyond the bounds of who scaled it;
//   - fewer pods available than a budget asks for, once the first healthy events
//     have made it whole;
//   - two pods of a DaemonSet on one node, or one taken away that is ready while
//     another node has none that is;
//   - a pod of a StatefulSet before those of lower ordinals were ready, or a second
//     one of an ordinal, or one taken away while it has to wait: see judgeRemoval;
//   - two pods at work on one index of a Job, or one more for an index that is done;
//   - more pods of a Job at work than its parallelism, or more at work and done
//     than its completions;
//   - a pod removed from the API while it runs, so that its successor runs beside it;
//   - two Jobs for one time of a CronJob.
func judge(events []watch.Event, healthy int) (faults []string) {
	pods := map[types.UID]*corev1.Pod{}
	done := map[string]bool{}                     // indexes of jobs that a pod has completed
	succeeded := map[string]sets.Set[types.UID]{} // pods by job
	rollouts, crons := rollouts{}, crons{}
	for n, event := range events {
		object := event.Object.(metav1.Object)
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Sprintf("event %d, %s %s at %s: ", n, event.Type, object.GetName(), object.GetResourceVersion())+fmt.Sprintf(format, args...))
		}
		switch object := event.Object.(type) {
		case *appsv1.Deployment:
			rollouts.deployment(object, fault)
			continue
		case *appsv1.ReplicaSet:
			rollouts.replicaSet(event.Type, object)
			continue
		case *batchv1.Job:
			crons.job(object, fault)
			continue
		}
		pod := event.Object.(*corev1.Pod)
		app, index := pod.Labels["app"], indexOf(pod)
		if event.Type == watch.Added {
			if app == "job" && done[index] {
				fault("index %s is done", index)
			}
			if app == "db" {
				judgeOrdinal(pods, pod, fault)
			}
		}
		atOnce := event.Type == watch.Deleted || pod.DeletionTimestamp != nil && ptr.Deref(pod.DeletionGracePeriodSeconds, 0) == 0
		if former := pods[pod.UID]; atOnce && former != nil && former.Spec.NodeName != "" && isLive(former) {
			fault("it is removed while it may run on %s", former.Spec.NodeName)
		}
		if former := pods[pod.UID]; former != nil && isLive(former) && (event.Type == watch.Deleted || pod.DeletionTimestamp != nil) {
			judgeRemoval(pods, former, fault)
		}
		if event.Type == watch.Deleted {
			delete(pods, pod.UID)
		} else {
			pods[pod.UID] = pod
		}
		job := pod.Labels[batchv1.JobNameLabel]
		if app == "job" && pod.Status.Phase == corev1.PodSucceeded {
			if hasIndex(pod) {
				done[index] = true
			}
			if succeeded[job] == nil {
				succeeded[job] = sets.Set[types.UID]{}
			}
			succeeded[job].Insert(pod.UID)
		}
		live, available, same, mates := 0, 0, 0, 0
		for _, other := range pods {
			if other.Labels["app"] != app || !isLive(other) {
				continue
			}
			live++
			if isReady(other) {
				available++
			}
			if app == "job" && other.Labels[batchv1.JobNameLabel] == job {
				mates++
			}
			if app == "job" && hasIndex(pod) && indexOf(other) == index || app == "agent" && nodeOf(other) == nodeOf(pod) {
				same++
			}
		}
		if rollout := rollouts[app]; rollout != nil {
			rollout.pods(live, available, fault)
		}
		if app == "job" && mates > jobParallelism {
			fault("%d pods of %s work at once, and %d are the most", mates, job, jobParallelism)
		}
		if finished := len(succeeded[job]); app == "job" && mates+finished > jobCompletions {
			fault("%d pods of %s work, %d are done, and %d are wanted", mates, job, finished, jobCompletions)
		}
		switch {
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

// account is one line for each event, for who looks for the cause of a fault.
func account(events []watch.Event) string {
	var lines strings.Builder
	for n, event := range events {
		object := event.Object.(metav1.Object)
		fmt.Fprintf(&lines, "%d %s %T %s generation %d", n, event.Type, object, object.GetName(), object.GetGeneration())
		switch o := event.Object.(type) {
		case *appsv1.Deployment:
			fmt.Fprintf(&lines, " size %d observed %d replicas %d updated %d available %d", *o.Spec.Replicas, o.Status.ObservedGeneration, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.AvailableReplicas)
		case *appsv1.ReplicaSet:
			fmt.Fprintf(&lines, " size %d observed %d replicas %d available %d", *o.Spec.Replicas, o.Status.ObservedGeneration, o.Status.Replicas, o.Status.AvailableReplicas)
		case *corev1.Pod:
			fmt.Fprintf(&lines, " on %s %s live %t ready %t", o.Spec.NodeName, o.Status.Phase, isLive(o), isReady(o))
		}
		lines.WriteByte('\n')
	}
	return lines.String()
}

// judgeRemoval judges that a pod is taken away. Whatever the size of the
// StatefulSet, its first pod is never too many: it has to be ready before another
// goes, and is the last of an update, when all others are.
func judgeRemoval(pods map[types.UID]*corev1.Pod, pod *corev1.Pod, fault func(string, ...any)) {
	app := pod.Labels["app"]
	ready := map[string]bool{}
	for _, other := range pods {
		if other.Labels["app"] == app && other.UID != pod.UID {
			where := other.Name
			if app == "agent" {
				where = nodeOf(other)
			}
			ready[where] = ready[where] || isLive(other) && isReady(other)
		}
	}
	switch {
	case app == "db" && ordinal(pod) > 0 && !ready["db-0"]:
		fault("it goes while db-0 is not ready")
	case app == "db" && ordinal(pod) == 0 || app == "agent" && isReady(pod):
		for where, is := range ready {
			if !is {
				fault("it goes while %s is not ready", where)
			}
		}
	}
}

// ordinal is that of a pod of the StatefulSet.
func ordinal(p *corev1.Pod) (n int) {
	_, _ = fmt.Sscanf(p.Name, "db-%d", &n)
	return n
}

// judgeOrdinal judges a new pod of the StatefulSet.
func judgeOrdinal(pods map[types.UID]*corev1.Pod, pod *corev1.Pod, fault func(string, ...any)) {
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

// hasIndex says whether a pod is for one index of its job.
func hasIndex(p *corev1.Pod) bool {
	_, ok := p.Annotations[batchv1.JobCompletionIndexAnnotation]
	return ok
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
	work := func(n int, phase corev1.PodPhase) (mates []*corev1.Pod) {
		for i := range n {
			p := pod("job", fmt.Sprint(phase, i), phase)
			p.Labels[batchv1.JobNameLabel] = "j"
			mates = append(mates, p)
		}
		return mates
	}
	removed := func(p *corev1.Pod) watch.Event { return watch.Event{Type: watch.Deleted, Object: p} }
	ending := func(p *corev1.Pod, seconds int64) watch.Event {
		p = p.DeepCopy()
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = new(metav1.Now()), &seconds
		return watch.Event{Type: watch.Modified, Object: p}
	}
	added := func(pods ...*corev1.Pod) (events []watch.Event) {
		for _, p := range pods {
			events = append(events, watch.Event{Type: watch.Added, Object: p})
		}
		return events
	}
	deployment := func(generation int64, replicas, available int32) watch.Event {
		d := (&crashes{}).deployment("web", replicas, 1, 1)
		d.Generation, d.Status = generation, appsv1.DeploymentStatus{ObservedGeneration: generation, Replicas: available, UpdatedReplicas: available, AvailableReplicas: available}
		return watch.Event{Type: watch.Modified, Object: d}
	}
	set := func(generation, observed int64, replicas int32) watch.Event {
		return watch.Event{Type: watch.Modified, Object: &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: "web-1", UID: "web-1", Generation: generation, OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "web", Controller: new(true)}}},
			Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas},
			Status:     appsv1.ReplicaSetStatus{ObservedGeneration: observed, Replicas: replicas, AvailableReplicas: replicas},
		}}
	}
	scaled := func(replicas int32, by string) watch.Event {
		d := (&crashes{}).deployment("web", replicas, 1, 1)
		d.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "someone", Subresource: by}}
		return watch.Event{Type: watch.Modified, Object: d}
	}
	cron := func(name, at string) watch.Event {
		return watch.Event{Type: watch.Added, Object: &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(name), Annotations: map[string]string{batchv1.CronJobScheduledTimestampAnnotation: at},
			OwnerReferences: []metav1.OwnerReference{{Kind: "CronJob", Name: "tick", Controller: new(true)}},
		}}}
	}
	then := func(events ...any) (all []watch.Event) {
		for _, e := range events {
			switch e := e.(type) {
			case watch.Event:
				all = append(all, e)
			case []watch.Event:
				all = append(all, e...)
			}
		}
		return all
	}
	first, second := pod("db", "db-0", corev1.PodRunning), pod("db", "db-1", corev1.PodRunning)
	unready := pod("db", "db-0", corev1.PodPending)
	daemon, mate, slow := on("n", pod("agent", "a", corev1.PodRunning)), on("m", pod("agent", "b", corev1.PodRunning)), on("m", pod("agent", "b", corev1.PodPending))
	running, waiting := pod("db", "db-0", corev1.PodRunning), pod("db", "db-0", corev1.PodPending)
	var full []*corev1.Pod
	for i := range 5 {
		full = append(full, pod("web", fmt.Sprint("web", i), corev1.PodRunning))
	}
	for name, test := range map[string]struct {
		events  []watch.Event
		healthy int
		want    string
	}{
		"surge":          {then(deployment(1, 4, 0), added(full...)), 0, ""},
		"too many":       {then(deployment(1, 4, 0), added(full...), added(pod("web", "more", corev1.PodPending))), 0, "6 pods, and 5 are the most"},
		"coming up":      {then(deployment(1, 4, 0), added(full[:2]...)), 0, ""},
		"too few":        {then(deployment(1, 4, 4), added(full[:2]...)), 0, "2 pods are available, and 3 are the least"},
		"enlarged":       {then(deployment(1, 2, 2), added(full[:2]...), deployment(2, 4, 2), added(full[2])), 0, ""},
		"enlarged, few":  {then(deployment(1, 2, 2), deployment(2, 4, 2), deployment(2, 4, 4), added(full[:2]...)), 0, "2 pods are available, and 3 are the least"},
		"made smaller":   {then(deployment(1, 4, 4), deployment(2, 2, 4), added(full...)), 0, ""},
		"made small":     {then(deployment(1, 4, 4), deployment(2, 2, 2), added(full...)), 0, "4 pods, and 3 are the most"},
		"not known":      {then(deployment(1, 4, 4), set(2, 1, 2), deployment(2, 2, 2), added(full...)), 0, ""},
		"known":          {then(deployment(1, 4, 4), set(2, 1, 2), deployment(2, 2, 2), set(2, 2, 2), added(full...)), 0, "4 pods, and 3 are the most"},
		"small, rolled":  {then(deployment(1, 4, 4), deployment(2, 2, 4), deployment(3, 2, 4), added(full[0])), 0, ""},
		"small, none":    {then(deployment(1, 4, 4), deployment(2, 3, 4), added(full[0])), 0, "1 pods are available, and 2 are the least"},
		"by hand":        {then(scaled(scaledMost+1, "")), 0, ""},
		"by autoscaler":  {then(scaled(scaledMost+1, "scale")), 0, "it is scaled to 6"},
		"two times":      {then(cron("a", "1"), cron("a", "1"), cron("b", "2")), 0, ""},
		"a time twice":   {then(cron("a", "1"), cron("b", "1")), 0, "a second job of tick for 1"},
		"budget":         {added(pod("guarded", "a", corev1.PodRunning)), 0, "the budget asks for 2"},
		"in order":       {added(pod("db", "db-0", corev1.PodRunning), pod("db", "db-1", corev1.PodPending)), 0, ""},
		"out of order":   {added(pod("db", "db-0", corev1.PodPending), pod("db", "db-1", corev1.PodPending)), 0, "ordinal 0 is not ready"},
		"second of one":  {added(pod("db", "db-0-x", corev1.PodRunning), pod("db", "db-0-y", corev1.PodPending)), 0, "a second pod of ordinal 0"},
		"rolled":         {then(added(first, second), ending(second, 30)), 0, ""},
		"rolled too far": {then(added(first, second), ending(second, 30), ending(first, 30)), 0, "it goes while db-1 is not ready"},
		"unready below":  {then(added(unready), watch.Event{Type: watch.Modified, Object: second}, ending(second, 30)), 0, "it goes while db-0 is not ready"},
		"daemon rolled":  {then(added(daemon, mate), ending(daemon, 30)), 0, ""},
		"daemons rolled": {then(added(daemon, mate), ending(daemon, 30), ending(mate, 30)), 0, "it goes while n is not ready"},
		"unready daemon": {then(added(daemon, slow), ending(daemon, 30)), 0, "it goes while m is not ready"},
		"useless daemon": {then(added(daemon, slow), ending(slow, 30)), 0, ""},
		"unannounced":    {then(added(on("n", running)), removed(running)), 0, "removed while it may run on n"},
		"gracefully":     {then(added(on("n", running)), ending(running, 30), ending(running, 0), removed(running)), 0, ""},
		"by force":       {then(added(on("n", running)), ending(running, 0), removed(running)), 0, "removed while it may run on n"},
		"never started":  {then(added(waiting), removed(waiting)), 0, ""},
		"parallel":       {added(work(jobParallelism, corev1.PodPending)...), 0, ""},
		"too parallel":   {added(work(jobParallelism+1, corev1.PodPending)...), 0, "4 pods of j work at once, and 3 are the most"},
		"all but done":   {then(added(work(3, corev1.PodSucceeded)...), added(work(2, corev1.PodPending)...)), 0, ""},
		"one too many":   {then(added(work(3, corev1.PodSucceeded)...), added(work(3, corev1.PodPending)...)), 0, "3 pods of j work, 3 are done, and 5 are wanted"},
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
