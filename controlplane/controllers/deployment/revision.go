package deployment

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/dump"
)

// historyLimit bounds the revision-history annotation, in characters.
const historyLimit = 2000

// rollout is one reconciliation of one deployment.
type rollout struct {
	*controller
	d      *appsv1.Deployment   // our own copy, replaced by what writes return
	newSet *appsv1.ReplicaSet   // of the present template; nil if there is none
	olds   []*appsv1.ReplicaSet // all others, oldest first
}

func (c *controller) newRollout(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *rollout {
	r := &rollout{controller: c, d: d}
	sorted := slices.Clone(sets)
	slices.SortFunc(sorted, byAge)
	for _, rs := range sorted {
		// Where several match, the oldest is the one: it was first.
		if r.newSet == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			r.newSet = rs
			continue
		}
		r.olds = append(r.olds, rs)
	}
	return r
}

// all returns every replica set.
func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.newSet == nil {
		return r.olds
	}
	return append(slices.Clone(r.olds), r.newSet)
}

func withoutHash(labels map[string]string) map[string]string {
	if _, ok := labels[appsv1.DefaultDeploymentUniqueLabelKey]; !ok {
		return labels
	}
	rest := maps.Clone(labels)
	delete(rest, appsv1.DefaultDeploymentUniqueLabelKey)
	return rest
}

func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := *a, *b
	x.Labels, y.Labels = withoutHash(a.Labels), withoutHash(b.Labels)
	return equality.Semantic.DeepEqual(x, y)
}

// templateHash is the value of the pod-template-hash label. It has to stay what
// other Kubernetes control planes compute, or taking over their state would
// roll every deployment.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*template))
	if collisions != nil {
		salt := make([]byte, 8)
		binary.LittleEndian.PutUint32(salt, uint32(*collisions))
		h.Write(salt)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is what the new replica set's revision has to be at least.
func (r *rollout) nextRevision() int64 {
	highest := int64(0)
	for _, rs := range r.olds {
		highest = max(highest, revisionOf(rs))
	}
	return highest + 1
}

// ownAnnotations are not copied from a deployment to its replica sets.
var ownAnnotations = []string{corev1.LastAppliedConfigAnnotation, revisionAnnotation, revisionHistoryAnnotation,
	desiredAnnotation, maxAnnotation, appsv1.DeprecatedRollbackTo}

// annotate copies the deployment's annotations to rs and raises its revision;
// a revision that rs had before joins its history.
func annotate(rs *appsv1.ReplicaSet, d *appsv1.Deployment, revision int64) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !slices.Contains(ownAnnotations, k) {
			rs.Annotations[k] = v
		}
	}
	former, had := rs.Annotations[revisionAnnotation]
	if revisionOf(rs) >= revision {
		return
	}
	rs.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
	if !had {
		return
	}
	history := former
	if past := rs.Annotations[revisionHistoryAnnotation]; past != "" {
		history = past + "," + former
	}
	for len(history) > historyLimit {
		_, history, _ = strings.Cut(history, ",")
	}
	rs.Annotations[revisionHistoryAnnotation] = history
}

// noteSizes writes down which size of the deployment rs was sized for.
func noteSizes(rs *appsv1.ReplicaSet, d *appsv1.Deployment) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[desiredAnnotation] = strconv.Itoa(int(*d.Spec.Replicas))
	rs.Annotations[maxAnnotation] = strconv.Itoa(int(*d.Spec.Replicas + limitsOf(d).surge))
}

// syncRevision brings the new replica set's annotations and minReadySeconds up
// to date, and the revision that the deployment shows. A rollback needs no
// more: the replica set it goes back to becomes the new one and gets a new,
// higher revision here.
func (r *rollout) syncRevision(ctx context.Context) error {
	if r.newSet == nil {
		return nil
	}
	rs := r.newSet.DeepCopy()
	annotate(rs, r.d, r.nextRevision())
	rs.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
	if !equality.Semantic.DeepEqual(rs, r.newSet) {
		updated, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update replica set %s: %w", rs.Name, err)
		}
		r.newSet = updated
	}
	if err := r.showRevision(ctx, r.newSet.Annotations[revisionAnnotation]); err != nil {
		return err
	}
	if hasDeadline(r.d) && condition(&r.d.Status, appsv1.DeploymentProgressing) == nil {
		status := r.d.Status.DeepCopy()
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", r.newSet.Name)))
		return r.writeStatus(ctx, *status)
	}
	return nil
}

func (r *rollout) showRevision(ctx context.Context, revision string) error {
	if r.d.Annotations[revisionAnnotation] == revision {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         r.d.UID,
		"annotations": map[string]string{revisionAnnotation: revision},
	}})
	if err != nil {
		return err
	}
	updated, err := r.client.AppsV1().Deployments(r.d.Namespace).Patch(ctx, r.d.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("write revision: %w", err)
	}
	r.keep(updated)
	return nil
}

// keep goes on with what a write returned, unless the spec has changed
// meanwhile: then the next reconciliation is for it.
func (r *rollout) keep(updated *appsv1.Deployment) {
	if updated.Generation == r.d.Generation {
		r.d = updated
	}
}

// ensureNewSet creates the replica set of the present template if there is
// none. Its name is made of the template's hash, so that a stale cache cannot
// lead to a second one.
func (r *rollout) ensureNewSet(ctx context.Context) error {
	if r.newSet != nil {
		return nil
	}
	rs := r.buildNewSet()
	created, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return r.resolveCollision(ctx, rs, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return fmt.Errorf("create replica set: %w", err)
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		r.recorder.Event(r.d, corev1.EventTypeWarning, reasonCreateFailed, message)
		err = fmt.Errorf("create replica set: %w", err)
		if hasDeadline(r.d) {
			status := r.d.Status.DeepCopy()
			setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateFailed, message))
			if statusErr := r.writeStatus(ctx, *status); statusErr != nil {
				r.loop.Logger().Warn("report failed creation", "deployment", r.d.Namespace+"/"+r.d.Name, "error", statusErr)
			}
		}
		return err
	}
	r.newSet = created
	if n := *created.Spec.Replicas; n > 0 {
		r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, n)
	}
	if err := r.showRevision(ctx, created.Annotations[revisionAnnotation]); err != nil {
		return err
	}
	if !hasDeadline(r.d) {
		return nil
	}
	status := r.d.Status.DeepCopy()
	setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", created.Name)))
	return r.writeStatus(ctx, *status)
}

func (r *rollout) buildNewSet() *appsv1.ReplicaSet {
	template := r.d.Spec.Template.DeepCopy()
	hash := templateHash(template, r.d.Status.CollisionCount)
	labelled := maps.Clone(template.Labels)
	if labelled == nil {
		labelled = map[string]string{}
	}
	labelled[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	template.Labels = labelled
	size := r.newSetSize(0)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            setName(r.d.Name, hash),
			Namespace:       r.d.Namespace,
			Labels:          labelled,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        &size,
			MinReadySeconds: r.d.Spec.MinReadySeconds,
			Selector:        metav1.AddLabelToSelector(r.d.Spec.Selector.DeepCopy(), appsv1.DefaultDeploymentUniqueLabelKey, hash),
			Template:        *template,
		},
	}
	annotate(rs, r.d, r.nextRevision())
	noteSizes(rs, r.d)
	return rs
}

func setName(deployment, hash string) string {
	if room := validation.DNS1123SubdomainMaxLength - len(hash) - 1; len(deployment) > room {
		deployment = deployment[:room]
	}
	return deployment + "-" + hash
}

// resolveCollision finds out whether the replica set that exists is ours, seen
// late, or has the same hash by accident; then the next try is salted.
func (r *rollout) resolveCollision(ctx context.Context, wanted *appsv1.ReplicaSet, cause error) error {
	existing, err := r.client.AppsV1().ReplicaSets(wanted.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the replica set that exists: %w", err)
	}
	if metav1.IsControlledBy(existing, r.d) && sameTemplate(&existing.Spec.Template, &r.d.Spec.Template) {
		r.newSet = existing
		return r.showRevision(ctx, existing.Annotations[revisionAnnotation])
	}
	status := r.d.Status.DeepCopy()
	collisions := int32(1)
	if status.CollisionCount != nil {
		collisions = *status.CollisionCount + 1
	}
	status.CollisionCount = &collisions
	if err := r.writeStatus(ctx, *status); err != nil {
		return err
	}
	return fmt.Errorf("hash collision %d: %w", collisions, cause)
}
