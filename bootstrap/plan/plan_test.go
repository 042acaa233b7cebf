package plan

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bundle/payload"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

var update = flag.Bool("update", false, "rewrite golden files")

// manifest is a payload of one architecture with made-up digests.
func manifest(version string) payload.Manifest {
	m := payload.Manifest{Version: version, Arch: "amd64"}
	binary := func(name, path string) {
		m.Entries = append(m.Entries, payload.Entry{
			Name: name, Path: path, Mode: fs.FileMode(0o755), Digest: "sha256:" + name, Size: 1, SHA256: "unpacked " + name + version,
		})
	}
	binary("controlplane", "controlplane")
	binary("nodeagent", "nodeagent")
	binary("containerd", "containerd")
	binary("containerd-shim-runc-v2", "containerd-shim-runc-v2")
	binary("runc", "runc")
	binary("cni-bridge", "cni/bridge")
	binary("cni-host-local", "cni/host-local")
	for _, name := range []string{"pause", "coredns"} {
		m.Entries = append(m.Entries, payload.Entry{
			Name: name, Digest: "sha256:" + name, Size: 1, Image: "clusterctl.dev/" + name + ":1", Target: "sha256:target-" + name,
		})
	}
	return m
}

func parse(t testing.TB, text string) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Parse("inventory.yaml", []byte("apiVersion: clusterctl/v1\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// fresh are the facts of hosts that nothing was done to.
func fresh(inv *inventory.Inventory) map[string]hostop.Facts {
	facts := map[string]hostop.Facts{}
	for _, h := range inv.Present() {
		facts[h.Name] = hostop.Facts{Hostname: h.Name, Arch: "amd64", Resolvers: []string{"127.0.0.53", "192.0.2.53"}}
	}
	return facts
}

var keys = map[string]string{"cluster.crt": "c1", "cluster.key": "c1", "etcd.crt": "e1", "front-proxy.crt": "f1"}

// running are the facts of a cluster that is up.
func running(inv *inventory.Inventory) map[string]hostop.Facts {
	facts := fresh(inv)
	for _, h := range inv.Present() {
		f := facts[h.Name]
		f.Installed = "v1"
		f.Services = map[string]string{}
		if h.Has(inventory.ControlPlane) {
			f.Authorities = keys
			f.Services[hostconfig.UnitControlPlane] = "active"
		}
		facts[h.Name] = f
	}
	for _, h := range inv.EtcdMembers() {
		f := facts[h.Name]
		f.EtcdData = true
		f.Services[hostconfig.UnitEtcd] = "active"
		facts[h.Name] = f
	}
	return facts
}

const (
	stacked = `
cluster: {name: demo, endpoint: api.example.org}
hosts:
- {name: "cp[1:3]", address: "10.0.0.[1:3]", roles: [control-plane]}
- {name: w1, address: 10.0.0.11, roles: [worker], labels: {disk: ssd, example.kubernetes.io/x: y}, taints: [{key: t, effect: NoSchedule}]}
- {name: w2, address: 10.0.0.12, roles: [worker]}
`
	external = `
cluster: {name: demo, etcd: {topology: external}}
hosts:
- {name: w1, address: 10.0.0.11, roles: [worker]}
- {name: "cp[1:2]", address: "10.0.0.[1:2]", roles: [control-plane]}
- {name: "etcd[1:3]", address: "10.0.0.[21:23]", roles: [etcd]}
`
	access = `
cluster:
  name: solo
  podSecurity: restricted
  schedulerProfiles: [{name: packing, strategy: MostAllocated}]
  alwaysPullImages: true
  authentication:
    anonymousDiscovery: true
    oidc:
    - {issuer: "https://login.example.org", clientID: us, groupsClaim: groups, groupsPrefix: "", requiredClaims: {hd: example.org}}
    - {issuer: "https://other.example.org", clientID: us, usernameClaim: email}
hosts: [{name: one, address: 10.0.0.1, roles: [control-plane]}]
`
	single = `
cluster: {name: solo}
hosts: [{name: one, address: 10.0.0.1, roles: [control-plane]}]
`
)

// inPlace says of every step of old that it is in place.
func inPlace(old *Plan, except ...string) map[string][]hostop.State {
	results := map[string][]hostop.State{}
	for _, step := range old.Steps {
		for range step.Ops {
			state := hostop.StateInPlace
			if slices.Contains(except, step.ID) {
				state = hostop.StateDiffers
			}
			results[step.ID] = append(results[step.ID], state)
		}
	}
	return results
}

// render shows everything about a plan: the graph, and what each file says.
func render(p *Plan) []byte {
	var b bytes.Buffer
	for _, step := range p.Steps {
		fmt.Fprintf(&b, "%s [%s] %s", step.ID, step.Phase, step.Title)
		if step.Via != "" {
			fmt.Fprintf(&b, " via %s", step.Via)
		}
		if step.Exclusive != "" {
			fmt.Fprintf(&b, " exclusive %s", step.Exclusive)
		}
		fmt.Fprintf(&b, "\n  needs %s\n", strings.Join(step.Needs, " "))
		for _, op := range step.Ops {
			fmt.Fprintf(&b, "  - %s%s\n", op.Describe(), details(op))
		}
	}
	return b.Bytes()
}

func details(op hostop.Op) string {
	indent := func(raw []byte) string {
		return "\n      | " + strings.ReplaceAll(strings.TrimSpace(string(raw)), "\n", "\n      | ")
	}
	switch o := op.(type) {
	case *hostop.Directory:
		return fmt.Sprintf(" %04o", o.Mode)
	case *hostop.File:
		return fmt.Sprintf(" %04o", o.Mode) + indent(o.Content)
	case *hostop.Authorities:
		return fmt.Sprintf(" %v", o.Keys)
	case *hostop.Certificate:
		return fmt.Sprintf(" by %s(%s) org %v names %v ips %v client %t server %t renew %s",
			o.Authority, o.AuthorityKey, o.Organization, o.DNSNames, o.IPs, o.Client, o.Server, o.RenewBefore)
	case *hostop.EtcdMember:
		return fmt.Sprintf(" found %t peers %v", o.Found, o.Peers) + indent(o.Config)
	case *hostop.NodeReady:
		return fmt.Sprintf(" labels %v", o.Labels)
	case *hostop.Manifests:
		return fmt.Sprintf(" wait %v", o.Wait)
	}
	return ""
}

func TestGolden(t *testing.T) {
	tests := []struct {
		name string
		plan func(t *testing.T) *Plan
	}{
		{"stacked", func(t *testing.T) *Plan {
			inv := parse(t, stacked)
			return build(t, inv, fresh(inv))
		}},
		{"external", func(t *testing.T) *Plan {
			inv := parse(t, external)
			return build(t, inv, fresh(inv))
		}},
		{"single", func(t *testing.T) *Plan {
			inv := parse(t, single)
			return build(t, inv, fresh(inv))
		}},
		// Everything that concerns who may come in is asked for.
		{"access", func(t *testing.T) *Plan {
			inv := parse(t, access)
			inv.Files["policy.yaml"], inv.Files["ca.crt"] = []byte("rules: []"), []byte("a certificate")
			inv.Cluster.Audit.Policy, inv.Cluster.Authentication.OIDC[0].CAFile = "policy.yaml", "ca.crt"
			p := build(t, inv, running(inv))
			return p.Prune(inPlace(p, "one/control-plane"))
		}},
		// A third worker joins: the hosts that are up have nothing to do.
		{"worker-added", func(t *testing.T) *Plan {
			before := parse(t, stacked)
			old := build(t, before, running(before))
			after := parse(t, stacked+"- {name: w3, address: 10.0.0.13, roles: [worker]}\n")
			facts := running(before)
			facts["w3"] = hostop.Facts{Arch: "amd64"}
			return build(t, after, facts).Prune(inPlace(old))
		}},
		// One host's certificates are about to end: nothing else happens.
		{"certificate-expiring", func(t *testing.T) *Plan {
			inv := parse(t, stacked)
			p := build(t, inv, running(inv))
			return p.Prune(inPlace(p, "cp2/api-certificates"))
		}},
		// Another version is in use: the link turns last, restarts take turns.
		{"upgrade", func(t *testing.T) *Plan {
			inv := parse(t, single)
			p, err := Build(inv, running(inv), manifest("v2"))
			if err != nil {
				t.Fatal(err)
			}
			return p
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := render(test.plan(t))
			path := filepath.Join("testdata", test.name+".golden")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("(-want +got; go test ./bootstrap/plan -update):\n%s", diff)
			}
		})
	}
}

func build(t testing.TB, inv *inventory.Inventory, facts map[string]hostop.Facts) *Plan {
	t.Helper()
	p, err := Build(inv, facts, manifest("v1"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRefusals(t *testing.T) {
	inv := parse(t, stacked)
	tests := []struct {
		name   string
		change func(inv *inventory.Inventory, facts map[string]hostop.Facts)
		want   string
	}{
		{"no facts", func(_ *inventory.Inventory, f map[string]hostop.Facts) { delete(f, "w2") }, "there are no facts of host w2"},
		{"architecture", func(_ *inventory.Inventory, f map[string]hostop.Facts) { f["w1"] = hostop.Facts{Arch: "arm64"} }, "host w1 is arm64, and the payload has amd64 only"},
		{"version", func(inv *inventory.Inventory, _ map[string]hostop.Facts) { inv.Cluster.Version = "v9" }, "the inventory wants clusterctl v9, and this is v1"},
		{"two authorities", func(_ *inventory.Inventory, f map[string]hostop.Facts) {
			f["cp1"] = hostop.Facts{Arch: "amd64", Authorities: keys}
			f["cp3"] = hostop.Facts{Arch: "amd64", Authorities: map[string]string{"cluster.crt": "other"}}
		}, "cp1 and cp3 have different certificate authorities"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			changed, facts := *inv, fresh(inv)
			test.change(&changed, facts)
			_, err := Build(&changed, facts, manifest("v1"))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Build: %v, want %q", err, test.want)
			}
		})
	}
	if _, err := Build(inv, fresh(inv)); err == nil {
		t.Error("planned without a payload")
	}
}

// Two builds of the same input are the same, so that `plan` shows what `up`
// does and services are not restarted for nothing.
func TestDeterministic(t *testing.T) {
	inv := parse(t, stacked)
	first := build(t, inv, running(inv))
	for range 20 {
		if diff := cmp.Diff(first, build(t, inv, running(inv))); diff != "" {
			t.Fatal(diff)
		}
	}
}

// What runs restarts for another program, unit or configuration, and for
// nothing else.
func TestFingerprints(t *testing.T) {
	prints := func(text, version string) map[string]string {
		inv := parse(t, text)
		p, err := Build(inv, running(inv), manifest(version))
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, step := range p.Steps {
			for _, op := range step.Ops {
				switch o := op.(type) {
				case *hostop.Service:
					found[step.Host+" "+o.Name] = o.Fingerprint
				case *hostop.EtcdMember:
					found[step.Host+" etcd"] = o.Fingerprint
				}
			}
		}
		return found
	}
	base := prints(stacked, "v1")
	same := func(other map[string]string, key string) bool { return base[key] == other[key] }
	worker := prints(stacked+"- {name: w3, address: 10.0.0.13, roles: [worker]}\n", "v1")
	for key := range base {
		if !same(worker, key) {
			t.Errorf("a new worker restarts %s", key)
		}
	}
	upgrade := prints(stacked, "v2")
	for key := range base {
		if same(upgrade, key) {
			t.Errorf("a new program does not restart %s", key)
		}
	}
	ports := prints(strings.Replace(stacked, "name: demo", "name: demo, nodePortRange: 31000-31999", 1), "v1")
	if same(ports, "cp1 "+hostconfig.UnitControlPlane) || !same(ports, "cp1 etcd") || !same(ports, "w1 "+hostconfig.UnitContainerd) {
		t.Error("a new range of node ports has to restart the control planes, and neither etcd nor containerd")
	}
}

func TestEachArchitectureGetsItsOwn(t *testing.T) {
	inv := parse(t, stacked)
	facts := fresh(inv)
	facts["w2"] = hostop.Facts{Arch: "arm64"}
	arm := manifest("v1")
	arm.Arch = "arm64"
	for i := range arm.Entries {
		arm.Entries[i].Digest += " for arm64"
	}
	p, err := Build(inv, facts, manifest("v1"), arm)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range p.Steps {
		for _, op := range step.Ops {
			if blob, ok := op.(*hostop.Blob); ok && strings.HasSuffix(blob.Digest, " for arm64") != (step.Host == "w2") {
				t.Errorf("%s gets %s", step.Host, blob.Digest)
			}
		}
	}
}

func TestStoppedMembersStartTogether(t *testing.T) {
	inv := parse(t, stacked)
	facts := running(inv)
	for name, f := range facts {
		f.Services = map[string]string{hostconfig.UnitEtcd: "inactive"}
		facts[name] = f
	}
	for _, step := range build(t, inv, facts).Steps {
		if strings.HasSuffix(step.ID, "/etcd") && (step.Exclusive != "" || slices.ContainsFunc(step.Needs, func(n string) bool { return strings.HasSuffix(n, "/etcd") })) {
			t.Errorf("%s waits for others that may wait for it: %q, needs %v", step.ID, step.Exclusive, step.Needs)
		}
	}
}

func TestReplacedMemberJoins(t *testing.T) {
	inv := parse(t, stacked)
	facts := running(inv)
	facts["cp1"] = hostop.Facts{Arch: "amd64"} // a new machine under the old name
	p := build(t, inv, facts)
	step, ok := p.Step("cp1/etcd")
	if !ok {
		t.Fatal("no step cp1/etcd")
	}
	for _, op := range step.Ops {
		if member, ok := op.(*hostop.EtcdMember); ok && member.Found {
			t.Error("the first member founds a second cluster beside the one that is there")
		}
	}
	for _, need := range []string{"cp2/etcd", "cp3/etcd"} {
		if !slices.Contains(step.Needs, need) {
			t.Errorf("it does not wait for %s", need)
		}
	}
	if certificates, _ := p.Step("cp1/etcd-certificates"); !slices.Contains(certificates.Needs, "cp2/authorities") {
		t.Errorf("certificates need %v, and cp2 holds the authorities", certificates.Needs)
	}
}

// Prune keeps order: whatever a step needed, directly or through steps that
// were dropped, it still comes after.
func TestPruneKeepsOrder(t *testing.T) {
	inv := parse(t, stacked)
	whole := build(t, inv, fresh(inv))
	rapid.Check(t, func(t *rapid.T) {
		results := map[string][]hostop.State{}
		for _, step := range whole.Steps {
			if rapid.Bool().Draw(t, step.ID) {
				for range step.Ops {
					results[step.ID] = append(results[step.ID], hostop.StateInPlace)
				}
			}
		}
		pruned := whole.Prune(results)
		if err := pruned.Validate(); err != nil {
			t.Fatal(err)
		}
		if len(pruned.Steps)+len(results) != len(whole.Steps) {
			t.Fatalf("%d steps, %d of them in place, and %d left", len(whole.Steps), len(results), len(pruned.Steps))
		}
		for _, step := range pruned.Steps {
			for ancestor := range ancestors(whole, step.ID) {
				if _, kept := pruned.Step(ancestor); kept && !ancestors(pruned, step.ID)[ancestor] {
					t.Fatalf("%s no longer comes after %s", step.ID, ancestor)
				}
			}
		}
	})
}

func ancestors(p *Plan, id string) map[string]bool {
	found := map[string]bool{}
	var visit func(string)
	visit = func(id string) {
		step, _ := p.Step(id)
		for _, need := range step.Needs {
			if !found[need] {
				found[need] = true
				visit(need)
			}
		}
	}
	visit(id)
	return found
}

func TestPruneDropsPayloadInPlace(t *testing.T) {
	inv := parse(t, single)
	p := build(t, inv, fresh(inv))
	step, _ := p.Step("one/runtime")
	states := make([]hostop.State, len(step.Ops))
	for i := range states {
		states[i] = hostop.StateInPlace
	}
	states[1] = hostop.StateDiffers
	pruned, _ := p.Prune(map[string][]hostop.State{"one/runtime": states}).Step("one/runtime")
	if len(pruned.Ops) != 1 || pruned.Ops[0] != step.Ops[1] {
		t.Errorf("what is left: %v", pruned.Ops)
	}
}

func TestPrint(t *testing.T) {
	inv := parse(t, single)
	p := build(t, inv, fresh(inv))
	var b strings.Builder
	if err := p.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Cluster solo, clusterctl v1: ", "\netcd\n  one: etcd's certificates\n", "      etcd member started and voting\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := p.Prune(inPlace(p)).Print(&b); err != nil {
		t.Fatal(err)
	}
	if want := "Cluster solo is as the inventory says. Nothing to do.\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
