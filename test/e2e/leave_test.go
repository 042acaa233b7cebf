package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

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

// without is the inventory with hosts that are to leave.
func (c *cluster) without(t *testing.T, names ...string) string {
	t.Helper()
	raw, err := os.ReadFile(c.inventory)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := yaml.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	for _, entry := range document["hosts"].([]any) {
		host := entry.(map[string]any)
		if slices.Contains(names, host["name"].(string)) {
			host["state"] = inventory.Absent
		}
	}
	if raw, err = yaml.Marshal(document); err != nil {
		t.Fatal(err)
	}
	// Beside the first, since paths in it are relative to the file.
	path := filepath.Join(filepath.Dir(c.inventory), "smaller.yaml")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
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
