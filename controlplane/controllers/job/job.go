package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 5

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

type controller struct {
	env      *reconcile.Environment
	client   kubernetes.Interface
	jobs     batchlisters.JobLister
	recorder record.EventRecorder
	loop     *reconcile.Loop
	orphans  *reconcile.Loop // pods whose job is gone or has ended
	expected reconcile.Expectations

	mu       sync.Mutex
	stripped map[types.UID]bool  // pods without a finalizer, before the cache shows it
	written  map[string]uint64   // resource version of our last write of a job's status
	records  map[string]failures // by job
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	jobs := env.Informers.Batch().V1().Jobs()
	c := &controller{
		env:      env,
		client:   env.Client,
		jobs:     jobs.Lister(),
		recorder: env.Recorder("job-controller"),
		stripped: map[types.UID]bool{},
		written:  map[string]uint64{},
		records:  map[string]failures{},
	}
	c.loop = reconcile.NewLoop(env, "job", workers, c.reconcile)
	c.orphans = reconcile.NewLoop(env, "job-orphans", 1, c.letGo)
	err := reconcile.Watch(env, jobs.Informer(), reconcile.Handlers[*batchv1.Job]{
		Add:    func(job *batchv1.Job) { c.loop.AddObject(job) },
		Update: func(_, job *batchv1.Job) { c.loop.AddObject(job) },
		Delete: func(job *batchv1.Job) {
			c.loop.AddObject(job)
			pods, err := env.PodsOf(job, false)
			if err != nil {
				c.loop.Logger().Warn("list pods of a deleted job", "job", reconcile.Key(job), "error", err)
			}
			for _, pod := range pods {
				c.orphans.AddObject(pod)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.WatchPods(env, reconcile.Owned{Kind: kind, Expected: &c.expected, Add: c.loop.Add, Orphan: c.orphanChanged})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, env.Informers.Core().V1().Pods().Informer(), reconcile.Handlers[*corev1.Pod]{
		Add:    c.podSeen,
		Update: func(_, pod *corev1.Pod) { c.podSeen(pod) },
		Delete: func(pod *corev1.Pod) { c.forget(pod.UID) },
	})
	if err != nil {
		return nil, err
	}
	return reconcile.All{c.loop, c.orphans}, nil
}

// podSeen forgets what the cache shows by now, and finds pods that no job will
// count any more.
func (c *controller) podSeen(pod *corev1.Pod) {
	if !hasFinalizer(pod) {
		c.forget(pod.UID)
		return
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind {
		c.orphans.AddObject(pod)
		return
	}
	job, err := c.jobs.Jobs(pod.Namespace).Get(ref.Name)
	if err != nil || job.UID != ref.UID || finished(job) {
		c.orphans.AddObject(pod)
	}
}

func (c *controller) forget(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.stripped, pod)
}

func (c *controller) isStripped(pod types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stripped[pod]
}

// orphanChanged wakes the jobs that may adopt pod.
func (c *controller) orphanChanged(pod *corev1.Pod) {
	jobs, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list jobs for an orphaned pod", "pod", reconcile.Key(pod), "error", err)
		return
	}
	for _, job := range jobs {
		if s, err := metav1.LabelSelectorAsSelector(job.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(job)
		}
	}
}

// letGo takes the finalizer off a pod that no job counts.
func (c *controller) letGo(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	pod, err := c.env.Informers.Core().V1().Pods().Lister().Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || !hasFinalizer(pod) {
		return err
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == kind.Kind {
		job, err := c.client.BatchV1().Jobs(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return fmt.Errorf("read job %s: %w", ref.Name, err)
		case job.UID == ref.UID && (!finished(job) || foreign(job)):
			return nil
		}
	}
	return c.strip(ctx, pod)
}

// foreign reports whether somebody else runs the job.
func foreign(job *batchv1.Job) bool {
	return job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName
}

func (c *controller) strip(ctx context.Context, pod *corev1.Pod) error {
	if !hasFinalizer(pod) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": pod.UID, "$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer}}})
	if err != nil {
		return err
	}
	// Before the call: its event may come before its answer.
	c.mu.Lock()
	c.stripped[pod.UID] = true
	c.mu.Unlock()
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		return nil
	}
	c.forget(pod.UID)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another one by now
	}
	return fmt.Errorf("take the finalizer off pod %s: %w", pod.Name, err)
}

func version(job *batchv1.Job) uint64 {
	n, err := strconv.ParseUint(job.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	job, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.drop(key)
		return nil
	}
	if err != nil || foreign(job) {
		return err
	}
	if finished(job) {
		c.drop(key)
		return nil
	}
	c.mu.Lock()
	stale, record := version(job) < c.written[key], c.records[key]
	c.mu.Unlock()
	if stale {
		return reconcile.ErrStale
	}
	met := c.expected.Met(key)
	pods, err := c.claim(ctx, job)
	if err != nil {
		return err
	}
	v := newView(job.DeepCopy(), pods, c.isStripped, time.Now())
	v.start()
	record = record.add(v.succeeded, v.failed)
	outcome, next := v.outcome(), plan{}
	var workErr error
	event := ""
	switch {
	case outcome != nil:
		workErr = c.remove(ctx, key, v, v.active, false)
	case met && job.DeletionTimestamp == nil:
		next = v.manage(record)
		workErr = errors.Join(c.remove(ctx, key, v, next.remove, true), c.create(ctx, key, v, next.create))
		if v.complete() {
			done := newCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", v.now)
			outcome = &done
		} else {
			event = v.turn()
		}
	}
	release := v.settle(outcome, met)
	if err := c.write(ctx, key, job, v, record, event); err != nil {
		return errors.Join(workErr, err)
	}
	_, err = reconcile.SlowStart(len(release), func(i int) error { return c.strip(ctx, release[i]) })
	if err := errors.Join(workErr, err); err != nil {
		return err
	}
	if next.wait > 0 {
		c.loop.AddAfter(key, next.wait)
	}
	if left, ok := v.deadline(); ok && left > 0 {
		c.loop.AddAfter(key, left)
	}
	return nil
}

// drop forgets a job that is gone or has ended.
func (c *controller) drop(key string) {
	c.expected.Forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.written, key)
	delete(c.records, key)
}

func (c *controller) claim(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read selector: %w", err)
	}
	pods, err := c.env.PodsOf(job, true)
	if err != nil {
		return nil, err
	}
	return reconcile.Claim[*corev1.Pod]{
		Owner: job, Kind: kind, Selector: selector, Finalizer: batchv1.JobTrackingFinalizer,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, pod *corev1.Pod, patch []byte) error {
			_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}.Resolve(ctx, pods)
}

// write writes the status if it differs, and then remembers what came of it.
func (c *controller) write(ctx context.Context, key string, before *batchv1.Job, v *view, record failures, event string) error {
	if equality.Semantic.DeepEqual(before.Status, v.job.Status) {
		return nil
	}
	after, err := c.client.BatchV1().Jobs(v.job.Namespace).UpdateStatus(ctx, v.job, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	c.mu.Lock()
	c.written[key], c.records[key] = version(after), record
	c.mu.Unlock()
	switch {
	case event == "Suspended":
		c.recorder.Event(before, corev1.EventTypeNormal, event, "Job suspended")
	case event == "Resumed":
		c.recorder.Event(before, corev1.EventTypeNormal, event, "Job resumed")
	}
	switch {
	case holds(v.job, batchv1.JobComplete):
		if wanted := v.job.Spec.Completions; wanted != nil && v.job.Status.Succeeded > *wanted {
			c.recorder.Event(before, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
		}
		c.recorder.Event(before, corev1.EventTypeNormal, "Completed", "Job completed")
	case holds(v.job, batchv1.JobFailed):
		failed := find(v.job, batchv1.JobFailed)
		c.recorder.Event(before, corev1.EventTypeWarning, failed.Reason, failed.Message)
	}
	return nil
}

func (c *controller) create(ctx context.Context, key string, v *view, indexes []int) error {
	if len(indexes) == 0 {
		return nil
	}
	awaited := v.awaited()
	c.expected.ExpectCreations(key, len(indexes))
	done, err := reconcile.SlowStart(len(indexes), func(i int) error {
		pod, err := c.client.CoreV1().Pods(v.job.Namespace).Create(ctx, v.newPod(indexes[i], awaited[indexes[i]]), metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.expected.Created(key)
			return nil
		}
		if err != nil {
			c.recorder.Eventf(v.job, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
			return fmt.Errorf("create pod: %w", err)
		}
		c.recorder.Eventf(v.job, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
		return nil
	})
	for range len(indexes) - done {
		c.expected.Created(key)
	}
	v.created = done
	return err
}

// remove deletes pods; uncounted ones lose their finalizer first and are
// neither successes nor failures.
func (c *controller) remove(ctx context.Context, key string, v *view, pods []*corev1.Pod, uncounted bool) error {
	gone := make([]bool, len(pods))
	_, err := reconcile.SlowStart(len(pods), func(i int) error {
		pod := pods[i]
		if uncounted {
			if err := c.strip(ctx, pod); err != nil {
				return err
			}
		}
		c.expected.ExpectDeletion(key, pod.UID)
		err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		if err == nil {
			gone[i] = true
			c.recorder.Eventf(v.job, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
			return nil
		}
		c.expected.Deleted(key, pod.UID)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		c.recorder.Eventf(v.job, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	})
	for i, pod := range pods {
		if gone[i] {
			v.leaves(pod)
		}
	}
	return err
}
