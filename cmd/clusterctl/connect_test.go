package main

import (
	"testing"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bootstrap/ssh"
)

func TestTarget(t *testing.T) {
	yes := true
	host := inventory.Host{Name: "a", SSH: inventory.SSH{
		Host: "a.example", User: "ops", Port: 2222, HostKeyPolicy: "accept-new", Password: &yes, Sudo: "never",
	}}
	got := target(host)
	if got.String() != "ops@a.example:2222" || got.HostKeys != ssh.HostKeyAcceptNew || !got.Password || !got.NoSudo {
		t.Errorf("target is %+v", got)
	}

	host.SSH = inventory.SSH{Host: "a.example", HostKeyPolicy: "pinned", HostKeys: []string{"SHA256:x"}, Sudo: "auto"}
	got = target(host)
	if got.HostKeys != "" || len(got.Pinned) != 1 || got.NoSudo || got.Password {
		t.Errorf("target of a pinned host is %+v", got)
	}
}
