package plan

import (
	"slices"
	"strings"
	"testing"

	"clusterctl/hostop"
)

// leaving is a cluster in which cp3 makes room for cp4, and w2 goes.
const leaving = `
cluster: {name: demo, endpoint: api.example.org}
hosts:
- {name: "cp[1:2]", address: "10.0.0.[1:2]", roles: [control-plane]}
- {name: cp3, address: 10.0.0.3, roles: [control-plane], state: absent}
- {name: cp4, address: 10.0.0.4, roles: [control-plane]}
- {name: w1, address: 10.0.0.11, roles: [worker]}
- {name: w2, address: 10.0.0.12, roles: [worker], state: absent}
`

func TestHostsLeave(t *testing.T) {
	inv := parse(t, leaving)
	for name, test := range map[string]struct {
		answers bool
		order   []string // each comes after the one before it
		never   []string
	}{
		"a host that answers": {true,
			[]string{"cp4/etcd", "cp4/ready", "cp3/drained", "cp3/etcd-gone", "cp3/cleared", "cp3/gone", "cp1/dns-remains"},
			[]string{"w2/etcd-gone"}},
		"a host that does not": {false,
			[]string{"cp1/etcd", "cp3/etcd-gone", "cp4/etcd", "cp4/ready", "cp3/gone", "cp1/dns-remains"},
			[]string{"cp3/drained", "cp3/cleared", "w2/drained", "w2/cleared"}},
	} {
		t.Run(name, func(t *testing.T) {
			facts := running(inv)
			facts["cp4"] = hostop.Facts{Arch: "amd64"}
			if test.answers {
				facts["cp3"], facts["w2"] = hostop.Facts{Arch: "amd64"}, hostop.Facts{Arch: "amd64"}
			}
			p := build(t, inv, facts)
			for i, step := range test.order {
				if _, ok := p.Step(step); !ok {
					t.Fatalf("no step %s", step)
				}
				if i > 0 && !ancestors(p, step)[test.order[i-1]] {
					t.Errorf("%s does not come after %s", step, test.order[i-1])
				}
			}
			for _, step := range test.never {
				if _, ok := p.Step(step); ok {
					t.Errorf("step %s makes no sense", step)
				}
			}
			for _, node := range []string{"cp1", "cp2", "cp4", "w1"} {
				if !ancestors(p, "w2/gone")[node+"/ready"] {
					t.Errorf("w2 goes before %s is ready", node)
				}
			}
			for _, step := range p.Steps {
				leaves := step.Host == "cp3" || step.Host == "w2"
				if leaves && !test.answers && step.Via == "" {
					t.Errorf("%s is to be done on a host that does not answer", step.ID)
				}
				if step.Via == "cp3" || step.Via == "w2" {
					t.Errorf("%s stands on a host that leaves", step.ID)
				}
				if leaves != slices.ContainsFunc([]string{"drained", "etcd-gone", "cleared", "gone"}, func(s string) bool { return strings.HasSuffix(step.ID, "/"+s) }) {
					t.Errorf("step %s of %s", step.ID, step.Host)
				}
			}
		})
	}
}

// A cluster that is still to be founded has no member to remove.
func TestNothingLeavesANewCluster(t *testing.T) {
	inv := parse(t, leaving)
	if _, ok := build(t, inv, fresh(inv)).Step("cp3/etcd-gone"); ok {
		t.Error("a member is removed from an etcd that is not there")
	}
}
