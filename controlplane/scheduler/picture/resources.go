package picture

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Resources is an amount of everything that a node offers or a pod asks for.
type Resources struct {
	MilliCPU  int64
	Memory    int64 // bytes
	Ephemeral int64 // bytes
	Pods      int64
	Other     map[v1.ResourceName]int64 // hugepages, devices
}

// FromList converts a ResourceList.
func FromList(list v1.ResourceList) Resources {
	var r Resources
	for name, quantity := range list {
		switch name {
		case v1.ResourceCPU:
			r.MilliCPU = quantity.MilliValue()
		case v1.ResourceMemory:
			r.Memory = quantity.Value()
		case v1.ResourceEphemeralStorage:
			r.Ephemeral = quantity.Value()
		case v1.ResourcePods:
			r.Pods = quantity.Value()
		default:
			if r.Other == nil {
				r.Other = map[v1.ResourceName]int64{}
			}
			r.Other[name] = quantity.Value()
		}
	}
	return r
}

// Add adds o to r.
func (r *Resources) Add(o Resources) { r.change(o, 1) }

// Subtract takes o from r.
func (r *Resources) Subtract(o Resources) { r.change(o, -1) }

func (r *Resources) change(o Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.Ephemeral += sign * o.Ephemeral
	r.Pods += sign * o.Pods
	for name, amount := range o.Other {
		if r.Other == nil {
			r.Other = map[v1.ResourceName]int64{}
		}
		if r.Other[name] += sign * amount; r.Other[name] == 0 {
			delete(r.Other, name)
		}
	}
}

// exceeds says that r is more than o of anything.
func (r *Resources) exceeds(o Resources) bool {
	if r.MilliCPU > o.MilliCPU || r.Memory > o.Memory || r.Ephemeral > o.Ephemeral || r.Pods > o.Pods {
		return true
	}
	for name, amount := range r.Other {
		if amount > o.Other[name] {
			return true
		}
	}
	return false
}

func newMilli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }
func newBytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

// Of is the amount of one resource: thousandths of CPU, bytes, or a count.
func (r *Resources) Of(name v1.ResourceName) int64 {
	switch name {
	case v1.ResourceCPU:
		return r.MilliCPU
	case v1.ResourceMemory:
		return r.Memory
	case v1.ResourceEphemeralStorage:
		return r.Ephemeral
	case v1.ResourcePods:
		return r.Pods
	}
	return r.Other[name]
}
