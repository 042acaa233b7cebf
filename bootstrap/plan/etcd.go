package plan

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/templates"
)

// etcdQuota is how large etcd's data may grow.
const etcdQuota = 8 << 30

// etcd makes the host a member.
//
// In a new cluster the first member founds, and the others join it one at a
// time. Where there is data already, nobody founds: hosts without data join the
// members that have some, and running members restart one at a time. A member
// that is merely stopped starts at once and without waiting for a turn, since
// several of them may be what the cluster lacks for its quorum.
func (b *builder) etcd(h inventory.Host) error {
	if !b.isMember(h) {
		return nil
	}
	config, err := hostconfig.Marshal(hostconfig.Etcd{
		Name: h.Name, Address: h.Address, DataDir: hostconfig.EtcdDir, PKIDir: hostconfig.PKIDir,
		ClusterToken: b.inv.Cluster.Name, QuotaBytes: etcdQuota,
	})
	if err != nil {
		return fmt.Errorf("render etcd's configuration: %w", err)
	}
	unit, err := templates.Unit(hostconfig.UnitEtcd, b.templateHost(h))
	if err != nil {
		return err
	}
	fingerprint, err := b.fingerprint(h, "controlplane", unit, config)
	if err != nil {
		return err
	}
	var peers []string
	for _, m := range b.members {
		if m.Name != h.Name {
			peers = append(peers, clientURL(m))
		}
	}
	b.add(Step{
		ID: id(h.Name, "etcd-certificates"), Host: h.Name, Phase: PhaseEtcd, Title: "etcd's certificates",
		Needs: b.certificatesNeed(h), Ops: b.etcdCertificates(h),
	})
	existing := b.existingMembers()
	step := Step{
		ID: id(h.Name, "etcd"), Host: h.Name, Phase: PhaseEtcd, Title: "etcd member", Exclusive: "etcd",
		Needs: []string{id(h.Name, "etcd-certificates"), id(h.Name, "version")},
		Ops: hostop.Ops{
			&hostop.Unit{Name: hostconfig.UnitEtcd, Content: unit},
			&hostop.EtcdMember{
				Config: config, Peers: peers, Fingerprint: fingerprint, Timeout: etcdTimeout,
				Found: b.founds(h),
			},
		},
	}
	switch {
	case b.facts[h.Name].EtcdData:
		if !b.active(h, hostconfig.UnitEtcd) {
			step.Exclusive = ""
		}
	case len(existing) > 0:
		step.Needs = append(step.Needs, b.lostMembers()...)
		for _, m := range existing {
			step.Needs = append(step.Needs, id(m.Name, "etcd"))
		}
	case h.Name != b.members[0].Name:
		step.Needs = append(step.Needs, id(b.members[0].Name, "etcd"))
	}
	b.add(step)
	return nil
}

// founds says whether h is the one that founds, or was interrupted at it: the
// first member, while nobody else has data.
func (b *builder) founds(h inventory.Host) bool {
	return h.Name == b.members[0].Name && !slices.ContainsFunc(b.existingMembers(), func(m inventory.Host) bool { return m.Name != h.Name })
}

// existingMembers are the members whose hosts have data.
func (b *builder) existingMembers() []inventory.Host {
	var existing []inventory.Host
	for _, m := range b.members {
		if b.facts[m.Name].EtcdData {
			existing = append(existing, m)
		}
	}
	return existing
}

// etcdNeeds are the steps after which an API server on h finds etcd.
func (b *builder) etcdNeeds(h inventory.Host) []string {
	if b.isMember(h) {
		return []string{id(h.Name, "etcd")}
	}
	existing := b.existingMembers()
	if len(existing) == 0 {
		return []string{id(b.members[0].Name, "etcd")}
	}
	var needs []string
	for _, m := range existing {
		needs = append(needs, id(m.Name, "etcd"))
	}
	return needs
}

func clientURL(h inventory.Host) string {
	return "https://" + net.JoinHostPort(h.Address, strconv.Itoa(hostconfig.PortEtcdClient))
}
