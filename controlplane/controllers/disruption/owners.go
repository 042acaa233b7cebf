package disruption

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// want is who decides on the number of some pods, and the number.
type want struct {
	owner    types.UID
	replicas int32
}

// expected sums up what the owners of pods want.
func (c *controller) expected(ctx context.Context, pods []*corev1.Pod) (int32, error) {
	// By name, so that of several errors it is always the same.
	sorted := slices.SortedFunc(slices.Values(pods), func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	asked := map[types.UID]*want{}
	owners := map[types.UID]int32{}
	for _, pod := range sorted {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			continue // nobody would replace it
		}
		found, known := asked[ref.UID]
		if !known {
			var err error
			if found, err = c.scale(ctx, pod.Namespace, ref); err != nil {
				return 0, err
			}
			asked[ref.UID] = found
		}
		if found == nil {
			return 0, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		owners[found.owner] = found.replicas
	}
	total := int32(0)
	for _, replicas := range owners {
		total += replicas
	}
	return total, nil
}

// scale finds what the owner of a pod, or who owns that, wants; nil where it is
// gone.
func (c *controller) scale(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*want, error) {
	found, err := c.known(namespace, ref)
	if err == nil && found != nil {
		return found, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	target, err := c.scales.OfOwner(ctx, namespace, ref)
	if err != nil || target == nil {
		return nil, err
	}
	return &want{target.UID, target.Spec.Replicas}, nil
}

// known is scale for the kinds that are watched; nil for any other, and for an
// owner that another of its name has taken the place of.
func (c *controller) known(namespace string, ref *metav1.OwnerReference) (*want, error) {
	of := func(uid types.UID, replicas *int32) *want {
		if uid != ref.UID {
			return nil
		}
		return &want{uid, ptr.Deref(replicas, 1)}
	}
	switch ref.APIVersion + " " + ref.Kind {
	case "apps/v1 ReplicaSet":
		set, err := c.sets.ReplicaSets(namespace).Get(ref.Name)
		if err != nil || set.UID != ref.UID {
			return nil, err
		}
		above := metav1.GetControllerOfNoCopy(set)
		if above == nil || above.Kind != "Deployment" {
			return of(set.UID, set.Spec.Replicas), nil
		}
		d, err := c.deployments.Deployments(namespace).Get(above.Name)
		if err != nil || d.UID != above.UID {
			return nil, err
		}
		return &want{d.UID, ptr.Deref(d.Spec.Replicas, 1)}, nil
	case "apps/v1 StatefulSet":
		set, err := c.statefulSets.StatefulSets(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return of(set.UID, set.Spec.Replicas), nil
	case "v1 ReplicationController":
		rc, err := c.replications.ReplicationControllers(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return of(rc.UID, rc.Spec.Replicas), nil
	}
	return nil, nil
}
