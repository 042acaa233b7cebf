package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bundle/payload"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// How long to wait for what a step starts, on a slow host.
const (
	etcdTimeout  = 2 * time.Minute
	readyTimeout = 2 * time.Minute
	addonTimeout = 3 * time.Minute
)

// renewBefore is how long before its end a certificate is replaced.
const renewBefore = 30 * 24 * time.Hour

// Build plans the whole cluster. facts has every present host, and the absent
// ones that answer; manifests has the payload of each architecture among the
// present.
func Build(inv *inventory.Inventory, facts map[string]hostop.Facts, manifests ...payload.Manifest) (*Plan, error) {
	b := &builder{
		inv: inv, facts: facts, cluster: inv.HostConfig(),
		planes: inv.ControlPlanes(), members: inv.EtcdMembers(),
		manifests: map[string]payload.Manifest{},
	}
	for _, manifest := range manifests {
		b.manifests[manifest.Arch] = manifest
	}
	if err := b.admit(); err != nil {
		return nil, err
	}
	b.plan = &Plan{Cluster: inv.Cluster.Name, Version: manifests[0].Version}
	// Within a phase hosts come in the inventory's order; hosts with a control
	// plane or etcd first, since everything waits for those.
	hosts := slices.Clone(inv.Present())
	slices.SortStableFunc(hosts, func(x, y inventory.Host) int { return b.rank(x) - b.rank(y) })
	for _, stage := range []func(inventory.Host) error{
		b.prepare, b.authorities, b.etcd, b.controlPlane, b.runtime, b.node, b.ready,
	} {
		for _, h := range hosts {
			if err := stage(h); err != nil {
				return nil, fmt.Errorf("plan host %s: %w", h.Name, err)
			}
		}
	}
	if err := b.addons(); err != nil {
		return nil, fmt.Errorf("plan add-ons: %w", err)
	}
	if err := b.leave(); err != nil {
		return nil, fmt.Errorf("plan who leaves: %w", err)
	}
	if err := b.plan.Validate(); err != nil {
		return nil, fmt.Errorf("check the plan: %w", err)
	}
	return b.plan, nil
}

type builder struct {
	inv       *inventory.Inventory
	facts     map[string]hostop.Facts
	manifests map[string]payload.Manifest // by architecture
	cluster   hostconfig.Cluster
	planes    []inventory.Host
	members   []inventory.Host
	keys      map[string]string // fingerprints of the authorities; empty: there are none yet
	holder    string            // the control plane that has, or gets, the authorities first
	plan      *Plan
}

// admit refuses what cannot be planned.
func (b *builder) admit() error {
	if len(b.manifests) == 0 {
		return errors.New("plan: there is no payload")
	}
	var faults []error
	for _, manifest := range b.manifests {
		if want := b.inv.Cluster.Version; want != "" && want != manifest.Version {
			faults = append(faults, fmt.Errorf("the inventory wants clusterctl %s, and this is %s", want, manifest.Version))
		}
	}
	for _, h := range b.inv.Present() {
		facts, ok := b.facts[h.Name]
		if !ok {
			faults = append(faults, fmt.Errorf("there are no facts of host %s", h.Name))
		} else if _, ok := b.manifests[facts.Arch]; !ok {
			faults = append(faults, fmt.Errorf("host %s is %s, and the payload has %s only", h.Name, facts.Arch,
				strings.Join(slices.Sorted(maps.Keys(b.manifests)), ", ")))
		} else if h.IsNode() && facts.Runtime != "" && facts.Runtime != h.Runtime {
			faults = append(faults, fmt.Errorf("host %s runs its pods with %s, and the inventory says %s: have it leave the cluster (state: absent) and come back",
				h.Name, facts.Runtime, h.Runtime))
		}
	}
	b.holder = b.planes[0].Name
	for _, h := range b.planes {
		have := b.facts[h.Name].Authorities
		switch {
		case len(have) == 0:
		case len(b.keys) == 0:
			b.keys, b.holder = have, h.Name
		case !maps.Equal(b.keys, have):
			faults = append(faults, fmt.Errorf("%s and %s have different certificate authorities", b.holder, h.Name))
		}
	}
	return errors.Join(faults...)
}

func (b *builder) rank(h inventory.Host) int {
	switch {
	case b.facts[h.Name].EtcdData: // new members join these
		return 0
	case h.Has(inventory.ControlPlane), h.Has(inventory.EtcdMember):
		return 1
	}
	return 2
}

func (b *builder) manifest(h inventory.Host) payload.Manifest {
	return b.manifests[b.facts[h.Name].Arch]
}

func (b *builder) add(step Step) {
	step.Needs = dedupe(step.Needs)
	b.plan.Steps = append(b.plan.Steps, step)
}

// id names a host's step.
func id(host, name string) string { return host + "/" + name }

// isMember says whether a host runs etcd.
func (b *builder) isMember(h inventory.Host) bool {
	return slices.ContainsFunc(b.members, func(m inventory.Host) bool { return m.Name == h.Name })
}

func (b *builder) active(h inventory.Host, unit string) bool {
	return b.facts[h.Name].Services[unit] == "active"
}

// prepare lays directories and the binaries that start first.
func (b *builder) prepare(h inventory.Host) error {
	manifest := b.manifest(h)
	directories := hostop.Ops{
		&hostop.Directory{Path: hostconfig.EtcDir, Mode: 0o755},
		&hostop.Directory{Path: hostconfig.PKIDir, Mode: 0o700},
		&hostop.Directory{Path: hostconfig.VarDir, Mode: 0o755},
		&hostop.Directory{Path: hostconfig.LibDir, Mode: 0o755},
		&hostop.Directory{Path: b.lib(h), Mode: 0o755},
	}
	if h.IsNode() {
		directories = append(directories,
			&hostop.Directory{Path: b.lib(h) + "/cni", Mode: 0o755},
			&hostop.Directory{Path: hostconfig.CNIDir, Mode: 0o755},
			&hostop.Directory{Path: hostconfig.StateDir, Mode: 0o750},
			&hostop.Directory{Path: hostconfig.Manifest, Mode: 0o700},
			&hostop.Directory{Path: hostconfig.LogDir, Mode: 0o755},
			&hostop.Directory{Path: hostconfig.PodLogs, Mode: 0o755},
		)
	}
	b.add(Step{ID: id(h.Name, "directories"), Host: h.Name, Phase: PhasePrepare, Title: "directories", Ops: directories})

	early := []string{"nodeagent"}
	if h.Has(inventory.ControlPlane) || b.isMember(h) {
		early = []string{"controlplane", "nodeagent"}
	}
	binaries, err := b.blobs(h, func(e payload.Entry) bool { return slices.Contains(early, e.Name) })
	if err != nil {
		return err
	}
	if len(binaries) != len(early) {
		return fmt.Errorf("the payload lacks one of %s", strings.Join(early, ", "))
	}
	b.add(Step{
		ID: id(h.Name, "programs"), Host: h.Name, Phase: PhasePrepare, Title: "programs " + strings.Join(early, ", "),
		Needs: []string{id(h.Name, "directories")}, Ops: binaries,
	})
	// While another version runs, the link turns only when all of the new one
	// is there; on a fresh host nothing has to wait for the rest.
	needs := []string{id(h.Name, "programs")}
	if h.IsNode() && b.upgrades(h) {
		if err := b.runtimeBinaries(h); err != nil {
			return err
		}
		needs = append(needs, id(h.Name, "network-plugins"))
		if h.Runtime != hostconfig.RuntimeCRIO {
			needs = append(needs, id(h.Name, "runtime"))
		}
	}
	b.add(Step{
		ID: id(h.Name, "version"), Host: h.Name, Phase: PhasePrepare, Title: "version " + manifest.Version + " in use",
		Needs: needs, Ops: hostop.Ops{&hostop.Link{Path: hostconfig.BinDir, Target: manifest.Version}},
	})
	return nil
}

// upgrades says whether another version is in use on the host.
func (b *builder) upgrades(h inventory.Host) bool {
	installed := b.facts[h.Name].Installed
	return installed != "" && installed != b.manifest(h).Version
}

func (b *builder) lib(h inventory.Host) string {
	return hostconfig.LibDir + "/" + b.manifest(h).Version
}

// blobs are the payload's binaries that keep accepts.
func (b *builder) blobs(h inventory.Host, keep func(payload.Entry) bool) (hostop.Ops, error) {
	var ops hostop.Ops
	for _, e := range b.manifest(h).Binaries() {
		if !keep(e) {
			continue
		}
		if e.Digest == "" || e.SHA256 == "" {
			return nil, fmt.Errorf("the payload's manifest has no digest of %s", e.Name)
		}
		mode := e.Mode
		if mode == 0 {
			mode = 0o755
		}
		ops = append(ops, &hostop.Blob{Path: b.lib(h) + "/" + e.Path, Mode: mode, Digest: e.Digest, Size: e.Size, SHA256: e.SHA256})
	}
	return ops, nil
}

// fingerprint stands for everything that a running service depends on: a change
// of any restarts it.
func (b *builder) fingerprint(h inventory.Host, program string, files ...[]byte) (string, error) {
	entry, ok := b.manifest(h).Entry(program)
	if !ok {
		return "", fmt.Errorf("the payload lacks %s", program)
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n", entry.SHA256)
	for _, file := range files {
		fmt.Fprintf(sum, "%d\n%s", len(file), file)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
