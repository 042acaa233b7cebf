package job

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	// burst bounds the creations or deletions of one reconciliation.
	burst = 500
	// A failed pod is replaced after firstBackoff, then twice that, up to
	// lastBackoff.
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
	// noIndex is the index of the pods of jobs without.
	noIndex = -1
)

// plan is what is to be done about a job's pods.
type plan struct {
	remove []*corev1.Pod
	create []int         // one pod for each of these indexes, or noIndex
	wait   time.Duration // until a failed pod may be replaced; 0 if none waits
}

// failures is how often pods failed in a row, and when the last one did.
type failures struct {
	count int
	last  time.Time
}

// left is how long the next pod has to wait.
func (f failures) left(now time.Time) time.Duration {
	if f.count == 0 {
		return 0
	}
	delay := lastBackoff
	if f.count < 8 {
		delay = min(lastBackoff, firstBackoff<<(f.count-1))
	}
	return max(0, f.last.Add(delay).Sub(now))
}

// endOf is when a pod ended, as far as anything tells.
func endOf(pod *corev1.Pod) time.Time {
	if end := endOfContainers(pod); !end.IsZero() {
		return end
	}
	if c := reconcile.PodCondition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil { // which is when its grace is over
		return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return pod.CreationTimestamp.Time
}

// endOfContainers is when the last of them ended, sidecars among them; zero if
// that is not known of all.
func endOfContainers(pod *corev1.Pod) (end time.Time) {
	statuses := slices.Clone(pod.Status.ContainerStatuses)
	for _, s := range pod.Status.InitContainerStatuses {
		if slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == s.Name && ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
		}) {
			statuses = append(statuses, s)
		}
	}
	for _, s := range statuses {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}
		}
		if s.State.Terminated.FinishedAt.After(end) {
			end = s.State.Terminated.FinishedAt.Time
		}
	}
	return end
}

// add brings the record up to date with pods that have just ended.
func (f failures) add(succeeded, failed []*corev1.Pod) failures {
	ended := slices.Concat(failed, succeeded) // of two at once, the success counts
	slices.SortStableFunc(ended, func(a, b *corev1.Pod) int { return endOf(a).Compare(endOf(b)) })
	for _, pod := range ended {
		if pod.Status.Phase == corev1.PodSucceeded {
			f = failures{}
			continue
		}
		f.count++
		if end := endOf(pod); end.After(f.last) {
			f.last = end
		}
	}
	return f
}

// manage plans for a job that goes on.
func (v *view) manage(record failures) plan {
	spec := &v.job.Spec
	if suspended(v.job) {
		return plan{remove: v.active}
	}
	wanted := int(*spec.Parallelism)
	switch {
	case spec.Completions != nil:
		wanted = max(0, min(wanted, int(*spec.Completions)-v.succeededCount))
	case v.succeededCount > 0:
		wanted = len(v.active) // they decide for themselves when all is done
	}
	p := plan{remove: v.surplus(wanted)}
	if len(p.remove) > 0 {
		p.remove = p.remove[:min(burst, len(p.remove))]
		return p
	}
	missing := wanted - len(v.active)
	if replacesFailedOnly(v.job) {
		missing -= len(v.terminating)
	}
	missing = min(missing, burst)
	if missing <= 0 {
		return p
	}
	if spec.BackoffLimitPerIndex == nil {
		if p.wait = record.left(v.now); p.wait > 0 {
			return p
		}
	}
	if !indexed(v.job) {
		for range missing {
			p.create = append(p.create, noIndex)
		}
		return p
	}
	awaited := v.awaited()
	for _, i := range v.pending(missing) {
		if former := awaited[i]; former != nil {
			left := failures{failureCount(former) + ignoredCount(former) + 1, endOf(former)}.left(v.now)
			if left > 0 {
				if p.wait == 0 || left < p.wait {
					p.wait = left
				}
				continue
			}
		}
		p.create = append(p.create, i)
	}
	return p
}

// pending returns the n lowest indexes that nothing has been or is done for.
func (v *view) pending(n int) (result []int) {
	taken := map[int]bool{}
	for _, pod := range v.active {
		taken[indexOf(pod)] = true
	}
	if replacesFailedOnly(v.job) {
		for _, pod := range v.terminating {
			taken[indexOf(pod)] = true
		}
	}
	for i := range int(*v.job.Spec.Completions) {
		if len(result) == n {
			break
		}
		if !taken[i] && !v.done[i] && !v.lost[i] {
			result = append(result, i)
		}
	}
	return result
}

// surplus returns the active pods that are in the way: second ones of an index,
// those whose index needs none, and then the ones that lose least, until wanted
// are left.
func (v *view) surplus(wanted int) []*corev1.Pod {
	sorted := slices.Clone(v.active)
	slices.SortFunc(sorted, byWorth)
	var kept, remove []*corev1.Pod
	taken := map[int]bool{}
	for _, pod := range sorted {
		i := indexOf(pod)
		if indexed(v.job) && (i < 0 || i >= int(*v.job.Spec.Completions) || taken[i] || v.done[i] || v.lost[i]) {
			remove = append(remove, pod)
			continue
		}
		taken[i] = true
		kept = append(kept, pod)
	}
	return append(remove, kept[min(wanted, len(kept)):]...)
}

// byWorth puts the pod first that it would cost most to lose: the one that has
// come further, been ready for longer, restarted less often, is older.
func byWorth(a, b *corev1.Pod) int {
	if c := cmp.Compare(rank(b), rank(a)); c != 0 {
		return c
	}
	if reconcile.PodReady(a) && reconcile.PodReady(b) {
		since := func(p *corev1.Pod) metav1.Time { return reconcile.PodCondition(p, corev1.PodReady).LastTransitionTime }
		if c := compareTimes(since(a), since(b)); c != 0 {
			return c
		}
	}
	containersA, sidecarsA := reconcile.PodRestarts(a)
	containersB, sidecarsB := reconcile.PodRestarts(b)
	return cmp.Or(cmp.Compare(containersA, containersB), cmp.Compare(sidecarsA, sidecarsB),
		compareTimes(a.CreationTimestamp, b.CreationTimestamp), cmp.Compare(a.Name, b.Name))
}

// compareTimes puts the earlier first, and an unknown one last.
func compareTimes(a, b metav1.Time) int {
	if a.IsZero() != b.IsZero() {
		if a.IsZero() {
			return 1
		}
		return -1
	}
	return a.Compare(b.Time)
}

// rank is higher the further a pod has come: it is bound, its phase known, it
// runs, it is ready.
func rank(pod *corev1.Pod) (rank int) {
	if pod.Spec.NodeName != "" {
		rank += 8
	}
	switch pod.Status.Phase {
	case corev1.PodUnknown:
		rank += 2
	case corev1.PodRunning:
		rank += 4
	}
	if reconcile.PodReady(pod) {
		rank++
	}
	return rank
}

// generateNameLimit leaves room for the API server's suffix.
const generateNameLimit = 58

// newPod is a pod for one index, or for noIndex.
func (v *view) newPod(index int, former *corev1.Pod) *corev1.Pod {
	template := v.job.Spec.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    v.job.Name + "-",
			Namespace:       v.job.Namespace,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(v.job, kind)},
		},
		Spec: template.Spec,
	}
	if !hasFinalizer(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if index == noIndex {
		return pod
	}
	number := strconv.Itoa(index)
	suffix := "-" + number + "-"
	pod.GenerateName = v.job.Name[:min(len(v.job.Name), generateNameLimit-len(suffix))] + suffix
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = number
	pod.Annotations[batchv1.JobCompletionIndexAnnotation] = number
	pod.Spec.Hostname = fmt.Sprintf("%s-%d", v.job.Name, index)
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if !slices.ContainsFunc(containers[i].Env, func(e corev1.EnvVar) bool { return e.Name == indexVariable }) {
				containers[i].Env = append(containers[i].Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
					FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)}}})
			}
		}
	}
	if v.job.Spec.BackoffLimitPerIndex != nil {
		failed, ignored := 0, 0
		if former != nil {
			failed, ignored = failureCount(former), ignoredCount(former)
			if v.counts(former) {
				failed++
			} else {
				ignored++
			}
		}
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(failed)
		if ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(ignored)
		}
	}
	return pod
}

// indexVariable tells a container its index.
const indexVariable = "JOB_COMPLETION_INDEX"
