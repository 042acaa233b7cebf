package integration

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// rollouts are Deployments by name, as judge sees them.
type rollouts map[string]*rollout

// rollout is how many pods a Deployment may and must have. Controllers act on
// what they have read, so that any size may count that was asked for since all
// was last as asked, to every controller's knowledge.
type rollout struct {
	asked              *appsv1.Deployment
	sets               map[types.UID]*appsv1.ReplicaSet
	whole              bool  // it once was as asked
	least, most        int32 // sizes that were asked for
	changes            int
	smaller            bool // a change asked for fewer pods
	surge, unavailable int32
}

func (r rollouts) named(name string) *rollout {
	if r[name] == nil {
		r[name] = &rollout{sets: map[types.UID]*appsv1.ReplicaSet{}}
	}
	return r[name]
}

func (r rollouts) deployment(d *appsv1.Deployment, fault func(string, ...any)) {
	o, size := r.named(d.Name), *d.Spec.Replicas
	o.surge, o.unavailable = d.Spec.Strategy.RollingUpdate.MaxSurge.IntVal, d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntVal
	if o.asked == nil {
		o.least, o.most = size, size
	} else if o.asked.Generation != d.Generation {
		o.changes++
		o.smaller = o.smaller || size < *o.asked.Spec.Replicas
	}
	o.asked, o.least, o.most = d, min(o.least, size), max(o.most, size)
	if (size < scaledLeast || size > scaledMost) && scaledByController(d) {
		fault("it is scaled to %d, and asked for are %d to %d", size, scaledLeast, scaledMost)
	}
	o.settle()
}

// scaledByController says whether who last changed the size did it through the
// scale subresource, as the autoscaler does.
func scaledByController(d *appsv1.Deployment) bool {
	return slices.ContainsFunc(d.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return f.Subresource == "scale" })
}

func (r rollouts) replicaSet(event watch.EventType, s *appsv1.ReplicaSet) {
	owner := metav1.GetControllerOf(s)
	if owner == nil {
		return
	}
	o := r.named(owner.Name)
	if event == watch.Deleted {
		delete(o.sets, s.UID)
	} else {
		o.sets[s.UID] = s
	}
	if o.asked != nil {
		o.settle()
	}
}

// settle forgets former sizes when everybody has seen the present one, and all is
// as asked.
func (o *rollout) settle() {
	s, size := o.asked.Status, *o.asked.Spec.Replicas
	if s.ObservedGeneration != o.asked.Generation || s.Replicas != size || s.UpdatedReplicas != size || s.AvailableReplicas != size {
		return
	}
	for _, set := range o.sets {
		if set.Status.ObservedGeneration != set.Generation || set.Status.Replicas != *set.Spec.Replicas || set.Status.AvailableReplicas != *set.Spec.Replicas {
			return
		}
	}
	o.whole, o.least, o.most, o.changes, o.smaller = true, size, size, 0, false
}

// pods judges how many pods there are. Pods may be missing until a Deployment is
// first whole; and when it is made smaller while it is rolled over, since old and
// new sets are then made smaller alike, whatever of them is available.
func (o *rollout) pods(live, available int, fault func(string, ...any)) {
	if most := int(o.most + o.surge); live > most {
		fault("%d pods, and %d are the most", live, most)
	}
	least := int(o.least - o.unavailable)
	if o.whole && (!o.smaller || o.changes == 1) && available < least {
		fault("%d pods are available, and %d are the least", available, least)
	}
}

// crons are the Jobs of CronJobs, by CronJob and time.
type crons map[string]types.UID

func (c crons) job(job *batchv1.Job, fault func(string, ...any)) {
	owner := metav1.GetControllerOf(job)
	if owner == nil || owner.Kind != "CronJob" {
		return
	}
	key := owner.Name + " for " + job.Annotations[batchv1.CronJobScheduledTimestampAnnotation]
	if former, ok := c[key]; ok && former != job.UID {
		fault("a second job of %s", key)
	}
	c[key] = job.UID
}
