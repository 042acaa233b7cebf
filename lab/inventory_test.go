//go:build linux

package lab

import (
	"testing"

	boot "clusterctl/bootstrap/inventory"
)

func TestInventoryIsOneThatClusterctlTakes(t *testing.T) {
	l := &Lab{Name: "trial", dir: t.TempDir(), Hosts: []*Host{
		{Name: "cp1", Address: "10.0.0.1", Roles: []string{RoleControlPlane}}, {Name: "worker1", Address: "10.0.0.2", Roles: []string{RoleWorker}}}}
	raw, err := l.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	inv, err := boot.Parse("inventory.yaml", raw)
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	for _, h := range inv.Hosts {
		// A share of the machine's disk says nothing about the lab.
		if got := h.Node.Eviction.Hard["imagefs.available"]; got != "1Gi" {
			t.Errorf("%s evicts pods when its disk has less than %q", h.Name, got)
		}
	}
}
