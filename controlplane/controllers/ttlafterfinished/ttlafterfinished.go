package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 2

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	jobs := env.Informers.Batch().V1().Jobs()
	var loop *reconcile.Loop
	loop = reconcile.NewLoop(env, "ttlafterfinished", workers, func(ctx context.Context, key string) error {
		namespace, name := reconcile.Split(key)
		job, err := jobs.Lister().Jobs(namespace).Get(name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		left, ok := remaining(job, time.Now())
		if ok && left <= 0 {
			// The cache may be behind: somebody may have prolonged it.
			job, err = env.Client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read job: %w", err)
			}
			left, ok = remaining(job, time.Now())
		}
		switch {
		case !ok:
			return nil
		case left > 0:
			loop.AddAfter(key, left)
			return nil
		}
		foreground := metav1.DeletePropagationForeground
		err = env.Client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{
			PropagationPolicy: &foreground,
			Preconditions:     metav1.NewUIDPreconditions(string(job.UID)),
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete job: %w", err)
		}
		return nil
	})
	err := reconcile.Watch(env, jobs.Informer(), reconcile.Handlers[*batchv1.Job]{
		Add:    func(job *batchv1.Job) { loop.AddObject(job) },
		Update: func(_, job *batchv1.Job) { loop.AddObject(job) },
	})
	if err != nil {
		return nil, err
	}
	return loop, nil
}

// remaining is how long a job still has; ok is false for one that is not to be
// deleted for its age.
func remaining(job *batchv1.Job, now time.Time) (left time.Duration, ok bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return 0, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now), true
		}
	}
	return 0, false
}
