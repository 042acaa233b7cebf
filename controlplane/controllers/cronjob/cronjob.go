package cronjob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 5
	// delay is how long after a scheduled time the controller looks, so that
	// clocks that differ a little do not make it look before.
	delay = 100 * time.Millisecond
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

type controller struct {
	client   kubernetes.Interface
	crons    batchlisters.CronJobLister
	jobs     batchlisters.JobLister
	recorder record.EventRecorder
	loop     *reconcile.Loop
	now      func() time.Time
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	return newController(env, time.Now)
}

func newController(env *reconcile.Environment, now func() time.Time) (reconcile.Controller, error) {
	batch := env.Informers.Batch().V1()
	c := &controller{
		client:   env.Client,
		crons:    batch.CronJobs().Lister(),
		jobs:     batch.Jobs().Lister(),
		recorder: env.Recorder("cronjob-controller"),
		now:      now,
	}
	c.loop = reconcile.NewLoop(env, "cronjob", workers, c.reconcile)
	err := reconcile.Watch(env, batch.CronJobs().Informer(), reconcile.Handlers[*batchv1.CronJob]{
		Add:    func(cj *batchv1.CronJob) { c.loop.AddObject(cj) },
		Update: c.changed,
		Delete: func(cj *batchv1.CronJob) { c.loop.AddObject(cj) },
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Each(env, batch.Jobs().Informer(), func(job *batchv1.Job) {
		if ref := metav1.GetControllerOfNoCopy(job); ref != nil && ref.Kind == kind.Kind {
			c.loop.Add(job.Namespace + "/" + ref.Name)
		}
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

// changed looks at a cron job; at one with a new schedule only at its next time,
// since no time of that schedule has been missed.
func (c *controller) changed(old, cj *batchv1.CronJob) {
	if old.Spec.Schedule == cj.Spec.Schedule && ptr.Equal(old.Spec.TimeZone, cj.Spec.TimeZone) {
		c.loop.AddObject(cj)
		return
	}
	schedule, err := parse(cj)
	if err != nil {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnParseableCronJobSchedule", "unparseable schedule for cronjob: %s", cj.Spec.Schedule)
		return
	}
	if now := c.now(); !schedule.Next(now).IsZero() {
		c.loop.AddAfter(reconcile.Key(cj), schedule.Next(now).Sub(now)+delay)
	}
}

func ended(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	cached, err := c.crons.CronJobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := c.jobs.Jobs(namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	cj := cached.DeepCopy()
	jobs := slices.DeleteFunc(slices.Clone(all), func(job *batchv1.Job) bool { return !metav1.IsControlledBy(job, cj) })
	trimErr := c.trim(ctx, cj, jobs)
	if err := c.observe(ctx, cj, jobs); err != nil {
		return err
	}
	wait, startErr := c.start(ctx, cj)
	if !equality.Semantic.DeepEqual(cached.Status, cj.Status) {
		if _, err := c.client.BatchV1().CronJobs(namespace).UpdateStatus(ctx, cj, metav1.UpdateOptions{}); err != nil {
			return errors.Join(startErr, fmt.Errorf("write status: %w", err))
		}
	}
	if err := errors.Join(startErr, trimErr); err != nil {
		return err
	}
	if wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return nil
}

// observe brings the list of active jobs up to date.
func (c *controller) observe(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	byUID := map[string]*batchv1.Job{}
	for _, job := range jobs {
		byUID[string(job.UID)] = job
		if ended(job) == "" && !inActive(cj, job) {
			fresh, err := c.client.BatchV1().CronJobs(cj.Namespace).Get(ctx, cj.Name, metav1.GetOptions{})
			switch {
			case err != nil:
				return fmt.Errorf("read cron job: %w", err)
			case inActive(fresh, job):
				return reconcile.ErrStale
			}
			c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		}
		done := job.Status.CompletionTime
		if ended(job) == batchv1.JobComplete && done != nil && (cj.Status.LastSuccessfulTime == nil || done.After(cj.Status.LastSuccessfulTime.Time)) {
			cj.Status.LastSuccessfulTime = done
		}
	}
	var active []corev1.ObjectReference
	for _, ref := range cj.Status.Active {
		job := byUID[string(ref.UID)]
		if job == nil { // the cache may not have it yet
			fresh, err := c.client.BatchV1().Jobs(cj.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err) || err == nil && fresh.UID != ref.UID:
				c.recorder.Eventf(cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
				continue
			case err != nil:
				return fmt.Errorf("read job %s: %w", ref.Name, err)
			}
			job = fresh
		}
		if how := ended(job); how != "" {
			c.recorder.Eventf(cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, how)
			continue
		}
		active = append(active, ref)
	}
	cj.Status.Active = active
	return nil
}

// start makes the job that is due, and returns how long there is nothing to do.
func (c *controller) start(ctx context.Context, cj *batchv1.CronJob) (time.Duration, error) {
	if cj.DeletionTimestamp != nil {
		return 0, nil
	}
	if zone := ptr.Deref(cj.Spec.TimeZone, ""); zone != "" {
		if _, err := time.LoadLocation(zone); err != nil {
			c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", zone, err)
			return 0, nil // until it is changed
		}
	}
	if ptr.Deref(cj.Spec.Suspend, false) {
		return 0, nil
	}
	schedule, err := parse(cj)
	if err != nil {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return 0, nil // until it is changed
	}
	now := c.now()
	if schedule.Next(now).IsZero() { // such as the 31st of February
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : time difference between two schedules is less than 1 second", cj.Spec.Schedule)
		return 0, nil
	}
	wait := schedule.Next(now).Sub(now) + delay
	at, many := due(cj, schedule, now)
	if many {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if at.IsZero() {
		return wait, nil
	}
	if len(cj.Status.Active) > 0 {
		switch cj.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			c.recorder.Eventf(cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return wait, nil // its end brings the cron job back
		case batchv1.ReplaceConcurrent:
			for _, ref := range cj.Status.Active {
				if err := c.delete(ctx, cj, ref.Name, metav1.NewUIDPreconditions(string(ref.UID))); err != nil {
					return 0, err
				}
			}
			cj.Status.Active = nil
		}
	}
	job := newJob(cj, at)
	made, err := c.client.BatchV1().Jobs(cj.Namespace).Create(ctx, job, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", made.Name)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return 0, nil
	case apierrors.IsAlreadyExists(err):
		// Made before a status was written, or by somebody else.
		if made, err = c.client.BatchV1().Jobs(cj.Namespace).Get(ctx, job.Name, metav1.GetOptions{}); err != nil {
			return 0, fmt.Errorf("read job %s: %w", job.Name, err)
		}
		if !metav1.IsControlledBy(made, cj) {
			return wait, nil
		}
	default:
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return 0, fmt.Errorf("create job %s: %w", job.Name, err)
	}
	cj.Status.LastScheduleTime = &metav1.Time{Time: at}
	if !inActive(cj, made) && ended(made) == "" {
		cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{
			APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: made.Namespace, Name: made.Name, UID: made.UID, ResourceVersion: made.ResourceVersion})
	}
	return wait, nil
}

func inActive(cj *batchv1.CronJob, job *batchv1.Job) bool {
	return slices.ContainsFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
}

func newJob(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	template := cj.Spec.JobTemplate.DeepCopy()
	annotations := maps.Clone(template.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	zone := time.UTC
	if cj.Spec.TimeZone != nil {
		if named, err := time.LoadLocation(*cj.Spec.TimeZone); err == nil {
			zone = named
		}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: jobName(cj, at), Namespace: cj.Namespace, Labels: template.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: template.Spec,
	}
}

// trim deletes the oldest ended jobs beyond the limits.
func (c *controller) trim(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	var errs []error
	for how, limit := range map[batchv1.JobConditionType]*int32{batchv1.JobComplete: cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cj.Spec.FailedJobsHistoryLimit} {
		if limit == nil {
			continue
		}
		old := slices.DeleteFunc(slices.Clone(jobs), func(job *batchv1.Job) bool { return ended(job) != how || job.DeletionTimestamp != nil })
		slices.SortFunc(old, func(a, b *batchv1.Job) int {
			return cmp.Or(started(a).Compare(started(b)), cmp.Compare(a.Name, b.Name))
		})
		for _, job := range old[:max(0, len(old)-int(*limit))] {
			errs = append(errs, c.delete(ctx, cj, job.Name, metav1.NewUIDPreconditions(string(job.UID))))
		}
	}
	return errors.Join(errs...)
}

func started(job *batchv1.Job) time.Time {
	if job.Status.StartTime != nil {
		return job.Status.StartTime.Time
	}
	return job.CreationTimestamp.Time
}

func (c *controller) delete(ctx context.Context, cj *batchv1.CronJob, name string, uid *metav1.Preconditions) error {
	background := metav1.DeletePropagationBackground
	err := c.client.BatchV1().Jobs(cj.Namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: uid})
	switch {
	case err == nil:
		c.recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", name)
	case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete job %s: %w", name, err)
	}
	return nil
}
