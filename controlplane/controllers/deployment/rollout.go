package deployment

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

// roll takes one step of a rolling update: grow the new replica set as far as
// the surge lets it, or else shrink the old ones as far as availability lets
// them.
func (r *rollout) roll(ctx context.Context) error {
	if err := r.ensureNewSet(ctx); err != nil {
		return err
	}
	changed, err := r.scale(ctx, &r.newSet, r.newSetSize(*r.newSet.Spec.Replicas))
	if err != nil {
		return err
	}
	if !changed {
		for i, size := range oldSizes(r.d, r.newSet, r.olds) {
			scaled, err := r.scale(ctx, &r.olds[i], size)
			if err != nil {
				return err
			}
			changed = changed || scaled
		}
	}
	return r.finish(ctx, changed)
}

// newSetSize is the size that the new replica set, of a present size, may take
// now. Upstream counts the sizes of the old ones only, and so has more pods than
// the surge allows while these are still to be removed.
func (r *rollout) newSetSize(present int32) int32 {
	size := newSize(r.d, present, occupied(r.olds))
	if size > present && r.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType && unseen(r.all()) {
		return present
	}
	return size
}

// recreate shrinks the old replica sets to nothing, waits until their last pod
// is gone, and only then starts the new one.
func (r *rollout) recreate(ctx context.Context) error {
	changed := false
	for i := range r.olds {
		scaled, err := r.scale(ctx, &r.olds[i], 0)
		if err != nil {
			return err
		}
		changed = changed || scaled
	}
	if changed {
		return r.finish(ctx, true)
	}
	running, err := r.oldPodsRunning()
	if err != nil {
		return err
	}
	if running {
		return r.finish(ctx, true)
	}
	if err := r.ensureNewSet(ctx); err != nil {
		return err
	}
	changed, err = r.scale(ctx, &r.newSet, *r.d.Spec.Replicas)
	if err != nil {
		return err
	}
	return r.finish(ctx, changed)
}

func (r *rollout) oldPodsRunning() (bool, error) {
	for _, rs := range r.olds {
		if rs.Status.Replicas > 0 {
			return true, nil
		}
		pods, err := r.env.PodsOf(rs, false)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return !reconcile.PodTerminal(pod) }) {
			return true, nil
		}
	}
	return false, nil
}

// finish ends a step of a rollout: history, status, the next deadline.
func (r *rollout) finish(ctx context.Context, changed bool) error {
	if !changed && r.complete(&r.d.Status) {
		if err := r.trimHistory(ctx); err != nil {
			return err
		}
	}
	status := r.progressed(r.status())
	if err := r.writeStatus(ctx, status); err != nil {
		return err
	}
	r.watchDeadline()
	return nil
}

// replicasChanged reports whether the deployment's own size has changed since
// its replica sets were sized.
func (r *rollout) replicasChanged() bool {
	return slices.ContainsFunc(r.all(), func(rs *appsv1.ReplicaSet) bool {
		desired := annotated(rs, desiredAnnotation)
		return *rs.Spec.Replicas > 0 && desired >= 0 && desired != *r.d.Spec.Replicas
	})
}

// resize follows a changed size without going on with a rollout, which a pause
// forbids and a rolling update does in a step of its own.
func (r *rollout) resize(ctx context.Context) error {
	if err := r.resizeSets(ctx); err != nil {
		return err
	}
	if r.d.Spec.Paused {
		if err := r.trimHistory(ctx); err != nil {
			return err
		}
	}
	return r.writeStatus(ctx, r.status())
}

func (r *rollout) resizeSets(ctx context.Context) error {
	var active []*appsv1.ReplicaSet
	for _, rs := range r.all() {
		if *rs.Spec.Replicas > 0 {
			active = append(active, rs)
		}
	}
	switch {
	case len(active) == 1:
		if !r.roomFor(map[string]int32{active[0].Name: *r.d.Spec.Replicas}) {
			return nil
		}
		_, err := r.scale(ctx, &active[0], *r.d.Spec.Replicas)
		return err
	case len(active) == 0:
		latest := r.newSet
		if latest == nil && len(r.olds) > 0 {
			latest = r.olds[len(r.olds)-1]
		}
		if latest == nil {
			return nil
		}
		if !r.roomFor(map[string]int32{latest.Name: *r.d.Spec.Replicas}) {
			return nil
		}
		_, err := r.scale(ctx, &latest, *r.d.Spec.Replicas)
		return err
	case r.saturated():
		for i := range r.olds {
			if _, err := r.scale(ctx, &r.olds[i], 0); err != nil {
				return err
			}
		}
		return nil
	case r.d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType:
		return nil
	}
	sizes := proportional(r.d, active)
	if !r.roomFor(sizes) {
		return nil
	}
	for i := range active {
		if err := r.scaleNoted(ctx, &active[i], sizes[active[i].Name]); err != nil {
			return err
		}
	}
	return nil
}

// roomFor says whether replica sets can be given sizes, by name, now: if any is to
// grow, there must not be too many pods together with those that are still to be
// removed. The next change of a replica set's status brings the deployment back.
func (r *rollout) roomFor(sizes map[string]int32) bool {
	grows, pods := false, int32(0)
	for _, rs := range r.all() {
		size, ok := sizes[rs.Name]
		if !ok {
			size = *rs.Spec.Replicas
		}
		grows = grows || size > *rs.Spec.Replicas
		pods += max(size, rs.Status.Replicas)
	}
	return !grows || !unseen(r.all()) && pods <= *r.d.Spec.Replicas+limitsOf(r.d).surge
}

// saturated reports whether the new replica set has all that the deployment
// wants already.
func (r *rollout) saturated() bool {
	rs, wanted := r.newSet, *r.d.Spec.Replicas
	return rs != nil && *rs.Spec.Replicas == wanted && annotated(rs, desiredAnnotation) == wanted && rs.Status.AvailableReplicas == wanted
}

// scale gives *set a size, if it has another, and reports whether it had.
// *set becomes what the write returned.
func (r *rollout) scale(ctx context.Context, set **appsv1.ReplicaSet, size int32) (bool, error) {
	if *(*set).Spec.Replicas == size {
		return false, nil
	}
	return true, r.scaleNoted(ctx, set, size)
}

// scaleNoted is scale for a resize: the annotations are brought up to date even
// where the size stays.
func (r *rollout) scaleNoted(ctx context.Context, set **appsv1.ReplicaSet, size int32) error {
	before := *(*set).Spec.Replicas
	rs := (*set).DeepCopy()
	rs.Spec.Replicas = &size
	noteSizes(rs, r.d)
	if equality.Semantic.DeepEqual(rs, *set) {
		return nil
	}
	updated, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("scale replica set %s: %w", rs.Name, err)
	}
	*set = updated
	if before != size {
		direction := "up"
		if size < before {
			direction = "down"
		}
		r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, rs.Name, before, size)
	}
	return nil
}

// trimHistory deletes the oldest replica sets without pods beyond the limit.
func (r *rollout) trimHistory(ctx context.Context) error {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	var alive []*appsv1.ReplicaSet
	for _, rs := range r.olds {
		if rs.DeletionTimestamp == nil {
			alive = append(alive, rs)
		}
	}
	excess := len(alive) - int(*limit)
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(alive, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revisionOf(a), revisionOf(b)), byAge(a, b))
	})
	for _, rs := range alive[:excess] {
		if rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		err := r.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old replica set %s: %w", rs.Name, err)
		}
	}
	return nil
}
