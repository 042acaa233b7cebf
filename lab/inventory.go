//go:build linux

package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// The part of the inventory's format that a lab fills in.
type (
	inventory struct {
		APIVersion string            `json:"apiVersion"`
		Cluster    inventoryCluster  `json:"cluster"`
		Defaults   inventoryDefaults `json:"defaults"`
		Hosts      []inventoryHost   `json:"hosts"`
	}
	inventoryCluster struct {
		Name string        `json:"name"`
		Etcd inventoryEtcd `json:"etcd"`
	}
	inventoryEtcd struct {
		Topology string `json:"topology"`
	}
	inventoryDefaults struct {
		SSH  inventorySSH  `json:"ssh"`
		Node inventoryNode `json:"node"`
	}
	inventoryNode struct {
		Eviction inventoryEviction `json:"eviction"`
	}
	inventoryEviction struct {
		Hard map[string]string `json:"hard"`
	}
	inventorySSH struct {
		User          string   `json:"user"`
		Port          int      `json:"port"`
		KeyFiles      []string `json:"keyFiles"`
		KnownHosts    []string `json:"knownHosts"`
		HostKeyPolicy string   `json:"hostKeyPolicy"`
	}
	inventoryHost struct {
		Name    string   `json:"name"`
		Address string   `json:"address"`
		Roles   []string `json:"roles"`
	}
)

// evictions are when a lab's nodes evict pods. Their disk is the machine's, which
// may be as full as its owner likes: shares of it, as nodes have them otherwise,
// would keep every pod away from every lab on a machine that has room for many.
var evictions = map[string]string{
	"memory.available": "100Mi", "nodefs.available": "1Gi", "nodefs.inodesFree": "1%", "imagefs.available": "1Gi", "imagefs.inodesFree": "1%",
}

// Inventory renders the lab as an inventory for `clusterctl up`.
func (l *Lab) Inventory() ([]byte, error) {
	document := inventory{
		APIVersion: "clusterctl/v1",
		Cluster:    inventoryCluster{Name: l.Name, Etcd: inventoryEtcd{Topology: "stacked"}},
		Defaults: inventoryDefaults{SSH: inventorySSH{
			User:          "root",
			Port:          22,
			KeyFiles:      []string{l.KeyFile()},
			KnownHosts:    []string{l.KnownHosts()},
			HostKeyPolicy: "strict",
		}, Node: inventoryNode{Eviction: inventoryEviction{Hard: evictions}}},
	}
	for _, host := range l.Hosts {
		if host.HasRole(RoleEtcd) {
			document.Cluster.Etcd.Topology = "external"
		}
		document.Hosts = append(document.Hosts, inventoryHost{Name: host.Name, Address: host.Address, Roles: host.Roles})
	}
	raw, err := yaml.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("encode inventory: %w", err)
	}
	return append([]byte("# Written by `clusterctl lab create`.\n"), raw...), nil
}

// WriteInventory writes the inventory to path, making its directory.
func (l *Lab) WriteInventory(path string) error {
	raw, err := l.Inventory()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create directory of inventory: %w", err)
	}
	return writeFile(path, raw, 0o644)
}
