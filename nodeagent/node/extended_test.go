package node

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestResourcesOfOthers(t *testing.T) {
	one, two, none := resource.MustParse("1"), resource.MustParse("2"), resource.MustParse("0")
	n := New(Config{Extended: func() (capacity, allocatable v1.ResourceList) {
		return v1.ResourceList{"example.com/gpu": two, "example.com/gone": none}, v1.ResourceList{"example.com/gpu": one, "example.com/gone": none}
	}})
	status := &v1.NodeStatus{Capacity: v1.ResourceList{v1.ResourceCPU: two}, Allocatable: v1.ResourceList{v1.ResourceCPU: one}}
	n.extend(status, v1.ResourceList{v1.ResourceCPU: none, "hugepages-2Mi": two, "example.com/foo": two, "example.com/gone": two, "example.com/gpu": none})
	for name, want := range map[v1.ResourceName][2]resource.Quantity{
		v1.ResourceCPU: {two, one}, "example.com/foo": {two, two}, "example.com/gpu": {two, one}, "example.com/gone": {none, none},
	} {
		if c, a := status.Capacity[name], status.Allocatable[name]; c.Cmp(want[0]) != 0 || a.Cmp(want[1]) != 0 {
			t.Errorf("%s: capacity %s, allocatable %s", name, &c, &a)
		}
	}
	if len(status.Capacity) != 4 || len(status.Allocatable) != 4 {
		t.Errorf("capacity %v, allocatable %v", status.Capacity, status.Allocatable)
	}
}
