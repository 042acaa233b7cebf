package devicetainteviction

import (
	"math"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// pool is a driver's name and that of its pool.
type pool struct{ driver, name string }

func (p pool) String() string { return p.driver + "/" + p.name }

// taintsOf returns the NoExecute taints of a device, as the slices of its pool
// say that belong to the pool's newest generation.
func taintsOf(device string, slices []*resourcev1.ResourceSlice) []resourcev1.DeviceTaint {
	newest := int64(math.MinInt64)
	for _, s := range slices {
		newest = max(newest, s.Spec.Pool.Generation)
	}
	for _, s := range slices {
		if s.Spec.Pool.Generation != newest {
			continue
		}
		for i := range s.Spec.Devices {
			if s.Spec.Devices[i].Name == device {
				return noExecute(s.Spec.Devices[i].Taints)
			}
		}
	}
	return nil
}

func noExecute(taints []resourcev1.DeviceTaint) []resourcev1.DeviceTaint {
	var result []resourcev1.DeviceTaint
	for _, t := range taints {
		if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
			result = append(result, t)
		}
	}
	return result
}

func tainted(s *resourcev1.ResourceSlice) bool {
	for i := range s.Spec.Devices {
		if len(noExecute(s.Spec.Devices[i].Taints)) > 0 {
			return true
		}
	}
	return false
}

// deadline is when the users of an allocated claim have to go; evict is false
// if they may stay. Each taint is tolerated from when it was added for as long
// as the shortest toleration that matches it says, and for ever if one has no
// limit.
func deadline(claim *resourcev1.ResourceClaim, slices func(pool) []*resourcev1.ResourceSlice) (at time.Time, evict bool) {
	for i := range claim.Status.Allocation.Devices.Results {
		device := &claim.Status.Allocation.Devices.Results[i]
		for _, taint := range taintsOf(device.Device, slices(pool{device.Driver, device.Pool})) {
			leave, bounded := tolerated(taint, device.Tolerations)
			if bounded && (!evict || leave.Before(at)) {
				at, evict = leave, true
			}
		}
	}
	return at, evict
}

func tolerated(taint resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (until time.Time, bounded bool) {
	since := time.Time{} // the API server says when a taint came; else it was always there
	if taint.TimeAdded != nil {
		since = taint.TimeAdded.Time
	}
	shortest := int64(-1)
	for _, t := range tolerations {
		// Only a toleration of this very effect counts: one of any effect lets a
		// pod get the device, but not keep it.
		if t.Effect != resourcev1.DeviceTaintEffectNoExecute || !resourceclaim.ToleratesTaint(t, taint) {
			continue
		}
		if t.TolerationSeconds == nil {
			return time.Time{}, false
		}
		if seconds := max(*t.TolerationSeconds, 0); shortest < 0 || seconds < shortest {
			shortest = seconds
		}
	}
	return since.Add(time.Duration(max(shortest, 0)) * time.Second), true
}
