package picture

import (
	"slices"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
	"k8s.io/dynamic-resource-allocation/structured/schedulerapi"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// Devices is claims of devices, and what drivers offer. What a pod reserved
// counts as taken until the API shows it in the claim, or it is given back.
type Devices struct {
	claims  map[string]*resourcev1.ResourceClaim // by namespace/name
	slices  map[string]*resourcev1.ResourceSlice
	list    []*resourcev1.ResourceSlice // of slices; nil: to be made anew
	classes map[string]*resourcev1.DeviceClass
	pending map[types.UID]*Pending                  // by claim, or by the pod for which a claim is still to be made
	made    map[types.UID]*resourcev1.ResourceClaim // for extended resources, by pod
	taken   schedulerapi.AllocatedState
	holders map[schedulerapi.DeviceID]int // claims and pending allocations that have a device whole
	version uint64

	extended *extendedresourcecache.ExtendedResourceCache
	mapped   uint64 // grows when other resources become devices of a class
}

// Pending is an allocation that is on its way into a claim.
type Pending struct {
	Result *resourcev1.AllocationResult
	// Written is the resource version of the claim that has it; nil: not yet.
	Written atomic.Pointer[string]
	// Made is the claim that was made to have it, where there was none before;
	// nil: not yet.
	Made atomic.Pointer[types.UID]
}

func newDevices() *Devices {
	return &Devices{
		claims: map[string]*resourcev1.ResourceClaim{}, slices: map[string]*resourcev1.ResourceSlice{},
		classes: map[string]*resourcev1.DeviceClass{}, pending: map[types.UID]*Pending{},
		made: map[types.UID]*resourcev1.ResourceClaim{}, holders: map[schedulerapi.DeviceID]int{},
		extended: extendedresourcecache.NewExtendedResourceCache(klog.Logger{}),
		taken: schedulerapi.AllocatedState{
			AllocatedDevices:         sets.New[schedulerapi.DeviceID](),
			AllocatedSharedDeviceIDs: sets.New[schedulerapi.SharedDeviceID](),
			AggregatedCapacity:       schedulerapi.NewConsumedCapacityCollection(),
		},
	}
}

// Claim finds a claim by namespace/name; nil: there is none.
func (d *Devices) Claim(key string) *resourcev1.ResourceClaim { return d.claims[key] }

// Pending is the allocation on its way into a claim, or into the claim that is
// being made for a pod's extended resources; nil: there is none.
func (d *Devices) Pending(claim types.UID) *Pending { return d.pending[claim] }

// MadeFor is the claim that was made for the extended resources of a pod; nil:
// there is none.
func (d *Devices) MadeFor(pod types.UID) *resourcev1.ResourceClaim { return d.made[pod] }

// madeFor is the pod for whose extended resources the scheduler made a claim;
// empty: it is another claim.
func madeFor(claim *resourcev1.ResourceClaim) types.UID {
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		return ""
	}
	for _, owner := range claim.OwnerReferences {
		if ptr.Deref(owner.Controller, false) && owner.APIVersion == "v1" && owner.Kind == "Pod" {
			return owner.UID
		}
	}
	return ""
}

// ClassOf is the class whose devices an extended resource is; nil: of none. It
// may be asked without the picture locked.
func (d *Devices) ClassOf(resource v1.ResourceName) *resourcev1.DeviceClass {
	return d.extended.GetDeviceClass(resource)
}

// Backed is those of a pod's resources that are devices of a class, in order of
// their names. Nodes may have them otherwise, by a device plugin.
func (d *Devices) Backed(pod *Pod) []v1.ResourceName {
	var backed []v1.ResourceName
	for name, amount := range pod.Requests.Other {
		if amount > 0 && d.ClassOf(name) != nil {
			backed = append(backed, name)
		}
	}
	slices.Sort(backed)
	return backed
}

// Taken is the devices that are not free. It changes with the picture, and is
// not to be changed by others.
func (d *Devices) Taken() schedulerapi.AllocatedState { return d.taken }

// Slices is all that drivers offer.
func (d *Devices) Slices() []*resourcev1.ResourceSlice {
	if d.list == nil {
		for _, s := range d.slices {
			d.list = append(d.list, s)
		}
	}
	return d.list
}

// List is all device classes.
func (d *Devices) List() ([]*resourcev1.DeviceClass, error) {
	classes := make([]*resourcev1.DeviceClass, 0, len(d.classes))
	for _, c := range d.classes {
		classes = append(classes, c)
	}
	return classes, nil
}

// Get finds a device class; its error is that of an API.
func (d *Devices) Get(name string) (*resourcev1.DeviceClass, error) {
	if c := d.classes[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclasses"), name)
}

// SetClaim takes note of a claim as the API shows it.
func (d *Devices) SetClaim(claim *resourcev1.ResourceClaim) {
	d.version++
	key := claim.Namespace + "/" + claim.Name
	if old := d.claims[key]; old != nil {
		d.count(old.Status.Allocation, false)
	}
	d.claims[key] = claim
	if pod := madeFor(claim); pod != "" {
		d.made[pod] = claim
	}
	if key, p := d.pendingOf(claim); p != nil && (claim.Status.Allocation != nil || p.shownBy(claim)) {
		d.Release(key)
	}
	d.count(claim.Status.Allocation, true)
}

// pendingOf is the allocation on its way into a claim, with what it goes by; nil:
// there is none.
func (d *Devices) pendingOf(claim *resourcev1.ResourceClaim) (types.UID, *Pending) {
	pod := madeFor(claim)
	if pod == "" {
		return claim.UID, d.pending[claim.UID]
	}
	p := d.pending[pod]
	if p == nil || ptr.Deref(p.Made.Load(), "") != claim.UID {
		return pod, nil // it is to get into another one
	}
	return pod, p
}

// shownBy says that the claim is as new as the write of the allocation: it has
// it, or has lost it again.
func (p *Pending) shownBy(claim *resourcev1.ResourceClaim) bool {
	written := p.Written.Load()
	if written == nil {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(claim.ResourceVersion, *written)
	return err == nil && order >= 0
}

// RemoveClaim forgets a claim.
func (d *Devices) RemoveClaim(claim *resourcev1.ResourceClaim) {
	d.version++
	key := claim.Namespace + "/" + claim.Name
	if old := d.claims[key]; old != nil {
		d.count(old.Status.Allocation, false)
		delete(d.claims, key)
	}
	if pod := madeFor(claim); pod != "" && d.made[pod] != nil && d.made[pod].UID == claim.UID {
		delete(d.made, pod)
	}
	if key, p := d.pendingOf(claim); p != nil {
		d.Release(key)
	}
}

// Reserve takes an allocation's devices before the API shows it: for a claim, or
// for a pod for whose extended resources one is to be made.
func (d *Devices) Reserve(claim types.UID, p *Pending) {
	d.version++
	d.pending[claim] = p
	d.count(p.Result, true)
}

// Release ends that.
func (d *Devices) Release(claim types.UID) {
	if p := d.pending[claim]; p != nil {
		d.version++
		delete(d.pending, claim)
		d.count(p.Result, false)
	}
}

// count takes devices, or gives them back. With admin access nothing is taken.
func (d *Devices) count(a *resourcev1.AllocationResult, take bool) {
	if a == nil {
		return
	}
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if ptr.Deref(r.AdminAccess, false) {
			continue
		}
		id := schedulerapi.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID == nil {
			if take {
				d.holders[id]++
				d.taken.AllocatedDevices.Insert(id)
			} else if d.holders[id]--; d.holders[id] <= 0 {
				delete(d.holders, id)
				d.taken.AllocatedDevices.Delete(id)
			}
			continue
		}
		share, capacity := schedulerapi.MakeSharedDeviceID(id, r.ShareID), schedulerapi.NewDeviceConsumedCapacity(id, r.ConsumedCapacity)
		if take {
			d.taken.AllocatedSharedDeviceIDs.Insert(share)
			d.taken.AggregatedCapacity.Insert(capacity)
		} else {
			d.taken.AllocatedSharedDeviceIDs.Delete(share)
			d.taken.AggregatedCapacity.Remove(capacity)
		}
	}
}

// SetSlice takes note of a slice that came or changed.
func (d *Devices) SetSlice(s *resourcev1.ResourceSlice) {
	d.version++
	d.slices[s.Name], d.list = s, nil
}

// RemoveSlice forgets a slice.
func (d *Devices) RemoveSlice(s *resourcev1.ResourceSlice) {
	d.version++
	delete(d.slices, s.Name)
	d.list = nil
}

// SetClass takes note of a class that came or changed.
func (d *Devices) SetClass(c *resourcev1.DeviceClass) {
	d.version++
	old := d.classes[c.Name]
	d.classes[c.Name] = c
	if old == nil {
		d.mapped++
		d.extended.OnAdd(c, false)
		return
	}
	if ptr.Deref(old.Spec.ExtendedResourceName, "") != ptr.Deref(c.Spec.ExtendedResourceName, "") {
		d.mapped++
	}
	d.extended.OnUpdate(old, c)
}

// RemoveClass forgets a class.
func (d *Devices) RemoveClass(c *resourcev1.DeviceClass) {
	d.version++
	d.mapped++
	delete(d.classes, c.Name)
	d.extended.OnDelete(c)
}
