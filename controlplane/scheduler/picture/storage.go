package picture

import (
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// Storage is claims, volumes, and what is known of classes and drivers. A claim
// or a volume that was assumed is seen as assumed until the API shows a newer
// state, or the assumption is taken back.
type Storage struct {
	claims      map[string]*assumable[*v1.PersistentVolumeClaim] // by namespace/name
	volumes     map[string]*assumable[*v1.PersistentVolume]
	byClass     map[string]map[string]bool // names of volumes
	classes     map[string]*storagev1.StorageClass
	csiNodes    map[string]*storagev1.CSINode
	drivers     map[string]*storagev1.CSIDriver
	capacities  map[string]*storagev1.CSIStorageCapacity          // by namespace/name
	attachments map[string]map[string]*storagev1.VolumeAttachment // by node and name
	users       map[string]int                                    // pods on nodes, by the claim that they name
	version     uint64
}

func newStorage() *Storage {
	return &Storage{
		claims: map[string]*assumable[*v1.PersistentVolumeClaim]{}, volumes: map[string]*assumable[*v1.PersistentVolume]{},
		byClass: map[string]map[string]bool{}, classes: map[string]*storagev1.StorageClass{},
		csiNodes: map[string]*storagev1.CSINode{}, drivers: map[string]*storagev1.CSIDriver{},
		capacities: map[string]*storagev1.CSIStorageCapacity{}, attachments: map[string]map[string]*storagev1.VolumeAttachment{},
		users: map[string]int{},
	}
}

type assumable[T metav1.Object] struct{ seen, api T }

// set takes note of a state that the API showed.
func (a *assumable[T]) set(object T) {
	a.api = object
	// What was assumed carries the version that it was made from.
	if order, err := resourceversion.CompareResourceVersion(object.GetResourceVersion(), a.seen.GetResourceVersion()); err != nil || order > 0 {
		a.seen = object
	}
}

// Claim finds a claim by namespace/name; nil: there is none.
func (s *Storage) Claim(key string) *v1.PersistentVolumeClaim {
	if a := s.claims[key]; a != nil {
		return a.seen
	}
	return nil
}

// Volume finds a volume; nil: there is none.
func (s *Storage) Volume(name string) *v1.PersistentVolume {
	if a := s.volumes[name]; a != nil {
		return a.seen
	}
	return nil
}

// VolumesOf is the volumes of a storage class, in no order.
func (s *Storage) VolumesOf(class string) []*v1.PersistentVolume {
	list := make([]*v1.PersistentVolume, 0, len(s.byClass[class]))
	for name := range s.byClass[class] {
		list = append(list, s.volumes[name].seen)
	}
	return list
}

// Class finds a storage class; nil: there is none.
func (s *Storage) Class(name string) *storagev1.StorageClass { return s.classes[name] }

// CSINode is what drivers say of a node; nil: nothing.
func (s *Storage) CSINode(node string) *storagev1.CSINode { return s.csiNodes[node] }

// Driver finds a CSI driver; nil: there is none.
func (s *Storage) Driver(name string) *storagev1.CSIDriver { return s.drivers[name] }

// Capacities is what drivers say is left, in no order.
func (s *Storage) Capacities(yield func(*storagev1.CSIStorageCapacity) bool) {
	for _, c := range s.capacities {
		if !yield(c) {
			return
		}
	}
}

// Attachments is a node's, in no order.
func (s *Storage) Attachments(node string) func(yield func(*storagev1.VolumeAttachment) bool) {
	return func(yield func(*storagev1.VolumeAttachment) bool) {
		for _, a := range s.attachments[node] {
			if !yield(a) {
				return
			}
		}
	}
}

// Users is how many pods on nodes name a claim.
func (s *Storage) Users(claim string) int { return s.users[claim] }

// SetClaim takes note of a claim.
func (s *Storage) SetClaim(claim *v1.PersistentVolumeClaim) {
	s.version++
	key := claim.Namespace + "/" + claim.Name
	if a := s.claims[key]; a != nil && a.api.UID == claim.UID {
		a.set(claim)
		return
	}
	s.claims[key] = &assumable[*v1.PersistentVolumeClaim]{seen: claim, api: claim}
}

// RemoveClaim forgets a claim.
func (s *Storage) RemoveClaim(claim *v1.PersistentVolumeClaim) {
	s.version++
	delete(s.claims, claim.Namespace+"/"+claim.Name)
}

// AssumeClaim has a changed copy of a claim seen instead of it.
func (s *Storage) AssumeClaim(claim *v1.PersistentVolumeClaim) {
	if a := s.claims[claim.Namespace+"/"+claim.Name]; a != nil {
		s.version++
		a.seen = claim
	}
}

// RestoreClaim takes back what was assumed of a claim.
func (s *Storage) RestoreClaim(key string) {
	if a := s.claims[key]; a != nil {
		s.version++
		a.seen = a.api
	}
}

// SetVolume takes note of a volume.
func (s *Storage) SetVolume(v *v1.PersistentVolume) {
	s.version++
	a := s.volumes[v.Name]
	if a != nil {
		delete(s.byClass[volume.GetPersistentVolumeClass(a.api)], v.Name)
	}
	if a != nil && a.api.UID == v.UID {
		a.set(v)
	} else {
		s.volumes[v.Name] = &assumable[*v1.PersistentVolume]{seen: v, api: v}
	}
	class := volume.GetPersistentVolumeClass(v)
	if s.byClass[class] == nil {
		s.byClass[class] = map[string]bool{}
	}
	s.byClass[class][v.Name] = true
}

// RemoveVolume forgets a volume.
func (s *Storage) RemoveVolume(v *v1.PersistentVolume) {
	a := s.volumes[v.Name]
	if a == nil {
		return
	}
	s.version++
	class := volume.GetPersistentVolumeClass(a.api)
	if delete(s.byClass[class], v.Name); len(s.byClass[class]) == 0 {
		delete(s.byClass, class)
	}
	delete(s.volumes, v.Name)
}

// AssumeVolume has a changed copy of a volume seen instead of it.
func (s *Storage) AssumeVolume(v *v1.PersistentVolume) {
	if a := s.volumes[v.Name]; a != nil {
		s.version++
		a.seen = v
	}
}

// RestoreVolume takes back what was assumed of a volume.
func (s *Storage) RestoreVolume(name string) {
	if a := s.volumes[name]; a != nil {
		s.version++
		a.seen = a.api
	}
}

// SetClass takes note of a storage class.
func (s *Storage) SetClass(class *storagev1.StorageClass) { s.version++; s.classes[class.Name] = class }

// RemoveClass forgets a storage class.
func (s *Storage) RemoveClass(class *storagev1.StorageClass) {
	s.version++
	delete(s.classes, class.Name)
}

// SetCSINode takes note of what drivers say of a node.
func (s *Storage) SetCSINode(node *storagev1.CSINode) { s.version++; s.csiNodes[node.Name] = node }

// RemoveCSINode forgets it.
func (s *Storage) RemoveCSINode(node *storagev1.CSINode) {
	s.version++
	delete(s.csiNodes, node.Name)
}

// SetDriver takes note of a CSI driver.
func (s *Storage) SetDriver(driver *storagev1.CSIDriver) {
	s.version++
	s.drivers[driver.Name] = driver
}

// RemoveDriver forgets it.
func (s *Storage) RemoveDriver(driver *storagev1.CSIDriver) {
	s.version++
	delete(s.drivers, driver.Name)
}

// SetCapacity takes note of a capacity.
func (s *Storage) SetCapacity(c *storagev1.CSIStorageCapacity) {
	s.version++
	s.capacities[c.Namespace+"/"+c.Name] = c
}

// RemoveCapacity forgets it.
func (s *Storage) RemoveCapacity(c *storagev1.CSIStorageCapacity) {
	s.version++
	delete(s.capacities, c.Namespace+"/"+c.Name)
}

// SetAttachment takes note of an attachment, whose node does not change.
func (s *Storage) SetAttachment(a *storagev1.VolumeAttachment) {
	s.version++
	if s.attachments[a.Spec.NodeName] == nil {
		s.attachments[a.Spec.NodeName] = map[string]*storagev1.VolumeAttachment{}
	}
	s.attachments[a.Spec.NodeName][a.Name] = a
}

// RemoveAttachment forgets it.
func (s *Storage) RemoveAttachment(a *storagev1.VolumeAttachment) {
	s.version++
	if delete(s.attachments[a.Spec.NodeName], a.Name); len(s.attachments[a.Spec.NodeName]) == 0 {
		delete(s.attachments, a.Spec.NodeName)
	}
}

// count takes note that a pod came to a node (1) or left it (-1).
func (s *Storage) count(pod *Pod, by int) {
	for i := range pod.Claims {
		if pod.Claims[i].Ephemeral {
			continue
		}
		if s.users[pod.Claims[i].Key] += by; s.users[pod.Claims[i].Key] <= 0 {
			delete(s.users, pod.Claims[i].Key)
		}
	}
}

// ClaimRef is a claim that a pod needs.
type ClaimRef struct {
	Key       string // namespace/name
	Name      string
	Ephemeral bool // the pod brings it along
}

// ClaimsOf lists the claims that a pod needs.
func ClaimsOf(pod *v1.Pod) []ClaimRef {
	var refs []ClaimRef
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			name := v.PersistentVolumeClaim.ClaimName
			refs = append(refs, ClaimRef{Key: pod.Namespace + "/" + name, Name: name})
		case v.Ephemeral != nil:
			name := ephemeral.VolumeClaimName(pod, v)
			refs = append(refs, ClaimRef{Key: pod.Namespace + "/" + name, Name: name, Ephemeral: true})
		}
	}
	return refs
}
