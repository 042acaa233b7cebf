package sources

import (
	"context"

	"clusterctl/hostop"
)

// Host is a machine as the screens show it.
type Host struct {
	Name, Address, Roles, State string // State: reachable or unreachable
	Version                     string // installed
	Services                    map[string]string
	Memory, DiskFree            int64 // bytes
}

// Hosts reaches the machines below the cluster, through SSH.
type Hosts interface {
	// Hosts is every host of the inventory, reachable or not.
	Hosts(ctx context.Context) ([]Host, error)
	// Etcd is the members as one that answers sees them.
	Etcd(ctx context.Context) (hostop.EtcdStatus, error)
}
