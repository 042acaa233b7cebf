package quota

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
)

// Cluster is what the usage of a claim depends on beside the claim: which extended
// resources are the devices of a class, and the pods that ask for such. Without
// its parts, claims count as if there were none.
type Cluster struct {
	Classes *extendedresourcecache.ExtendedResourceCache
	// Pod finds a pod.
	Pod func(namespace, name string) (*corev1.Pod, error)
	// Claims lists a namespace's claims.
	Claims func(namespace string) ([]*resourcev1.ResourceClaim, error)
}

// matches tells the quotas by which devices of a class are counted as the extended
// resource that they are.
func (c Cluster) matches(name corev1.ResourceName) bool {
	if class, ok := strings.CutPrefix(string(name), corev1.ResourceImplicitExtendedClaimsPerClass); ok && c.Classes.GetExtendedResource(class) != "" {
		return true
	}
	requested, ok := strings.CutPrefix(string(name), requestsPrefix)
	return ok && c.Classes.GetDeviceClass(corev1.ResourceName(requested)) != nil
}

// addExtended counts the devices of a claim under the names of the extended
// resources that they are, too. What the claim's pod asked for by such a name
// counts with the pod.
func (c Cluster) addExtended(usage corev1.ResourceList, claim *resourcev1.ResourceClaim, now time.Time) {
	added := corev1.ResourceList{}
	for name, quantity := range usage {
		class, ok := strings.CutSuffix(string(name), corev1.ResourceClaimsPerClass)
		if !ok || class == "" {
			continue
		}
		added[corev1.ResourceName(corev1.ResourceImplicitExtendedClaimsPerClass+class)] = quantity
		if resource := c.Classes.GetExtendedResource(class); resource != "" {
			added[corev1.ResourceName(requestsPrefix+resource)] = quantity
		}
	}
	if len(added) == 0 {
		return
	}
	var counted corev1.ResourceList
	if pod := c.madeFor(claim); pod != nil {
		counted = podUsage(pod, now)
	}
	for name, quantity := range added {
		quantity.Sub(counted[name])
		if quantity.Sign() > 0 {
			usage[name] = quantity
		}
	}
}

// madeFor is the pod for whose extended resources a claim was made; nil: none. It
// takes more than the claim's word, or else whoever makes claims could have them
// counted as others'.
func (c Cluster) madeFor(claim *resourcev1.ResourceClaim) *corev1.Pod {
	owner := extendedOwner(claim)
	if owner == nil || c.Pod == nil {
		return nil
	}
	pod, err := c.Pod(claim.Namespace, owner.Name)
	if err != nil || pod.UID != owner.UID {
		return nil
	}
	if status := pod.Status.ExtendedResourceClaimStatus; status != nil {
		if status.ResourceClaimName != claim.Name {
			return nil
		}
		return pod
	}
	// Until the pod tells, the first of its claims counts.
	claims, err := c.Claims(claim.Namespace)
	if err != nil {
		return nil
	}
	for _, other := range claims {
		if of := extendedOwner(other); of == nil || of.UID != pod.UID {
			continue
		}
		if order := other.CreationTimestamp.Compare(claim.CreationTimestamp.Time); order < 0 || order == 0 && other.Name < claim.Name {
			return nil
		}
	}
	return pod
}

// extendedOwner is the pod for whose extended resources a claim says that it was
// made; nil: it is another claim.
func extendedOwner(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(claim)
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || owner == nil || owner.Kind != "Pod" || owner.APIVersion != "v1" {
		return nil
	}
	return owner
}
