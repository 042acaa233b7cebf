package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/bootstrap/inventory"
)

// testHostsLeave takes three of five hosts out, two control planes among them,
// of which one is dead and comes back later.
func (c *cluster) testHostsLeave(t *testing.T) {
	smaller := *c
	smaller.inventory = c.without(t, "cp2", "cp3", "worker2")
	c.run(t, "lab", "kill", "--name", c.name, "cp2")
	smaller.up(t)
	smaller.wantNodes(t, "cp1", "worker1")
	smaller.wantNodesReady(t, 2)
	smaller.wantSampleServed(t, 2)
	if etcd := smaller.run(t, "status", smaller.inventory); strings.Contains(etcd, "cp2") || strings.Contains(etcd, "cp3") {
		t.Errorf("hosts that left are still told of:\n%s", etcd)
	}

	c.run(t, "lab", "start", "--name", c.name, "cp2")
	smaller.up(t)
	smaller.wantNodes(t, "cp1", "worker1")
	left := c.hosts(t, "ls -d /etc/clusterctl /usr/local/lib/clusterctl /var/lib/clusterctl 2>/dev/null || echo nothing of ours", "cp2", "cp3", "worker2")
	if strings.Count(left, "nothing of ours") != 3 {
		t.Errorf("hosts that left are not cleared:\n%s", left)
	}
	if out := smaller.run(t, "up", smaller.inventory, "--kubeconfig", smaller.kubeconfig); !strings.Contains(out, "nothing to do") {
		t.Errorf("another up found something to do:\n%s", out)
	}
}

// TestControlPlaneReplaced has a control plane die, and a new host come in its place.
func TestControlPlaneReplaced(t *testing.T) {
	c := newLab(t, "e2e-replace", 3, 2, 0)
	before := *c
	before.inventory = c.without(t, "worker2")
	before.up(t)
	before.wantNodes(t, "cp1", "cp2", "cp3", "worker1")
	before.wantNodesReady(t, 4)
	before.wantMembers(t, "cp1", "cp2", "cp3")
	before.deploySample(t)

	c.run(t, "lab", "kill", "--name", c.name, "cp2")
	after := *c
	after.inventory = c.amended(t, "replaced.yaml", func(host map[string]any) {
		switch host["name"] {
		case "cp2":
			host["state"] = inventory.Absent
		case "worker2":
			host["roles"] = []string{"control-plane"}
		}
	})
	after.up(t)
	after.wantNodes(t, "cp1", "cp3", "worker1", "worker2")
	after.wantNodesReady(t, 4)
	after.wantMembers(t, "cp1", "cp3", "worker2")
	after.wantSampleServed(t, 4)
	// Every host has a control plane to turn to, whichever of the old ones goes.
	for _, gone := range []string{"cp1", "cp3"} {
		after.hosts(t, "systemctl stop clusterctl-controlplane", gone)
		eventually(t, time.Minute, "the API is reached without "+gone, func(context.Context) error {
			out, err := after.try(t.Context(), t, "hosts", "exec", after.inventory, "--", "curl -sk --max-time 20 https://127.0.0.1:6444/version")
			if n := strings.Count(out, `"gitVersion"`); err == nil && n != 4 {
				err = fmt.Errorf("%d hosts of 4 reach it:\n%s", n, out)
			}
			return err
		})
		after.hosts(t, "systemctl start clusterctl-controlplane", gone)
	}

	c.run(t, "lab", "start", "--name", c.name, "cp2")
	after.up(t)
	if out := c.hosts(t, "ls -d /etc/clusterctl /usr/local/lib/clusterctl /var/lib/clusterctl 2>/dev/null || echo nothing of ours", "cp2"); !strings.Contains(out, "nothing of ours") {
		t.Errorf("the host that died is not cleared:\n%s", out)
	}
}

// wantMembers waits until there is an etcd member on each of the hosts, well and
// with a vote, and no other.
func (c *cluster) wantMembers(t *testing.T, names ...string) {
	t.Helper()
	// A member that is slow to answer is an error of status.
	eventually(t, time.Minute, "etcd's members", func(context.Context) error {
		out, err := c.try(t.Context(), t, "status", c.inventory, "-o", "json")
		if err != nil {
			return err
		}
		if n := strings.Count(out, `"peerURL"`); n != len(names) {
			return fmt.Errorf("etcd has %d members, want %d:\n%s", n, len(names), out)
		}
		for _, name := range names {
			if !strings.Contains(out, "https://"+c.address(t, name)+":") {
				return fmt.Errorf("etcd has no member on %s:\n%s", name, out)
			}
		}
		if n := strings.Count(out, `"healthy": true`); n != len(names) {
			return fmt.Errorf("%d members of %d are healthy:\n%s", n, len(names), out)
		}
		if strings.Contains(out, `"learner": true`) {
			return fmt.Errorf("an etcd member is still a learner:\n%s", out)
		}
		return nil
	})
}

// without is the inventory with hosts that are to leave.
func (c *cluster) without(t *testing.T, names ...string) string {
	t.Helper()
	return c.amended(t, "smaller.yaml", func(host map[string]any) {
		if slices.Contains(names, host["name"].(string)) {
			host["state"] = inventory.Absent
		}
	})
}

// amended is the inventory with its hosts changed, in a file beside it, since
// paths in it are relative to the file.
func (c *cluster) amended(t *testing.T, file string, change func(host map[string]any)) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(c.inventory), file)
	c.rewrite(t, path, func(document map[string]any) {
		for _, entry := range document["hosts"].([]any) {
			change(entry.(map[string]any))
		}
	})
	return path
}

func (c *cluster) wantNodes(t *testing.T, names ...string) {
	t.Helper()
	list, err := c.client(t, "").CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, node := range list.Items {
		have = append(have, node.Name)
	}
	if slices.Sort(have); !slices.Equal(have, names) {
		t.Errorf("nodes %v, want %v", have, names)
	}
}
