package picture

import (
	"sync/atomic"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/structured/schedulerapi"
	"k8s.io/utils/ptr"
)

// Devices is claims of devices, and what drivers offer. What a pod reserved
// counts as taken until the API shows it in the claim, or it is given back.
type Devices struct {
	claims  map[string]*resourcev1.ResourceClaim // by namespace/name
	slices  map[string]*resourcev1.ResourceSlice
	list    []*resourcev1.ResourceSlice // of slices; nil: to be made anew
	classes map[string]*resourcev1.DeviceClass
	pending map[types.UID]*Pending // by claim
	taken   schedulerapi.AllocatedState
	version uint64
}

// Pending is an allocation that is on its way into a claim.
type Pending struct {
	Result *resourcev1.AllocationResult
	// Written is the resource version of the claim that has it; nil: not yet.
	Written atomic.Pointer[string]
}

func newDevices() *Devices {
	return &Devices{
		claims: map[string]*resourcev1.ResourceClaim{}, slices: map[string]*resourcev1.ResourceSlice{},
		classes: map[string]*resourcev1.DeviceClass{}, pending: map[types.UID]*Pending{},
		taken: schedulerapi.AllocatedState{
			AllocatedDevices:         sets.New[schedulerapi.DeviceID](),
			AllocatedSharedDeviceIDs: sets.New[schedulerapi.SharedDeviceID](),
			AggregatedCapacity:       schedulerapi.NewConsumedCapacityCollection(),
		},
	}
}

// Claim finds a claim by namespace/name; nil: there is none.
func (d *Devices) Claim(key string) *resourcev1.ResourceClaim { return d.claims[key] }

// Pending is the allocation on its way into a claim; nil: there is none.
func (d *Devices) Pending(claim types.UID) *Pending { return d.pending[claim] }

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
	if p := d.pending[claim.UID]; p != nil && (claim.Status.Allocation != nil || p.shownBy(claim)) {
		d.Release(claim.UID)
	}
	d.count(claim.Status.Allocation, true)
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
	d.Release(claim.UID)
}

// Reserve takes an allocation's devices before the API shows it.
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
				d.taken.AllocatedDevices.Insert(id)
			} else {
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
	d.classes[c.Name] = c
}

// RemoveClass forgets a class.
func (d *Devices) RemoveClass(c *resourcev1.DeviceClass) {
	d.version++
	delete(d.classes, c.Name)
}
