package node

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/stats"
)

// resourcePIDs is how reservations spell processes.
const resourcePIDs v1.ResourceName = "pid"

// Reserved is what the host keeps from its pods.
func Reserved(agent hostconfig.NodeAgent) (v1.ResourceList, error) {
	list := v1.ResourceList{}
	for name, text := range agent.Reserved {
		switch v1.ResourceName(name) {
		case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, resourcePIDs:
		default:
			return nil, fmt.Errorf("reserve %s: want cpu, memory, ephemeral-storage or pid", name)
		}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("reserve %s: %w", name, err)
		}
		if q.Sign() < 0 {
			return nil, fmt.Errorf("reserve %s: %s is negative", name, text)
		}
		list[v1.ResourceName(name)] = q
	}
	return list, nil
}

// PodsTogether is what all pods of this host may have: what it has, less what
// is reserved. They can fill it up, but not the host.
func PodsTogether(agent hostconfig.NodeAgent) (cgroups.Limits, error) {
	reserved, err := Reserved(agent)
	if err != nil {
		return cgroups.Limits{}, err
	}
	memory, err := stats.ReadMemory()
	if err != nil {
		return cgroups.Limits{}, err
	}
	left := func(capacity int64, name v1.ResourceName) (int64, error) {
		q := reserved[name]
		if q.Value() >= capacity {
			return 0, fmt.Errorf("reserve %s %s: the host has %d", q.String(), name, capacity)
		}
		return capacity - q.Value(), nil
	}
	var limits cgroups.Limits
	if limits.Memory, err = left(int64(memory.Total), v1.ResourceMemory); err != nil {
		return limits, err
	}
	if _, most := stats.PIDs(); most > 0 && most < math.MaxInt64 {
		if limits.PIDs, err = left(int64(most), resourcePIDs); err != nil {
			return limits, err
		}
	}
	if _, err := left(int64(stats.CPUs()), v1.ResourceCPU); err != nil {
		return limits, err
	}
	cpu := reserved[v1.ResourceCPU]
	limits.CPUShares = cgroups.Shares(int64(stats.CPUs())*1000 - cpu.MilliValue())
	return limits, nil
}
