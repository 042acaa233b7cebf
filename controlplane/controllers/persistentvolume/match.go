package persistentvolume

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// match finds the best volume for a claim that names none; nil: there is none.
// Volumes with the fewest access modes beyond the claim's are tried first. With
// delayed, only one that was reserved for the claim counts: the scheduler chooses
// among the others.
func (c *controller) match(claim *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
	all, err := c.volumeLister.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	byModes := map[int][]*corev1.PersistentVolume{}
	for _, v := range all {
		if volume.CheckAccessModes(claim, v) {
			byModes[len(v.Spec.AccessModes)] = append(byModes[len(v.Spec.AccessModes)], v)
		}
	}
	counts := make([]int, 0, len(byModes))
	for count := range byModes {
		counts = append(counts, count)
	}
	slices.Sort(counts)
	for _, count := range counts {
		candidates := byModes[count]
		// Of equal ones the same is chosen every time.
		slices.SortFunc(candidates, func(a, b *corev1.PersistentVolume) int { return cmp.Compare(a.Name, b.Name) })
		best, err := volume.FindMatchingVolume(claim, candidates, nil, nil, delayed, true)
		if err != nil || best != nil {
			return best, err
		}
	}
	return nil, nil
}

// satisfies says why a volume that a claim asks for by name cannot serve it.
func satisfies(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	has, want := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", v.Name)
	case has.Value() < want.Value():
		return fmt.Errorf("requested PV is too small")
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return fmt.Errorf("storageClassName does not match")
	case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return fmt.Errorf("volumeAttributesClassName does not match")
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return fmt.Errorf("incompatible volumeMode")
	case !volume.CheckAccessModes(claim, v):
		return fmt.Errorf("incompatible accessMode")
	}
	return nil
}
