package plan

import (
	"time"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostop"
)

// How long a host's leaving may wait: for disruption budgets, and for etcd's
// quorum.
const (
	drainTimeout = 5 * time.Minute
	leaveTimeout = time.Minute
)

// leave takes the absent hosts out of the cluster, after everything else: only
// when all that stays is in place does anything go. A host that answers loses
// its pods, its etcd member, everything of ours, and then its node, which its
// agent would have made again. Of one that does not answer, what the cluster
// knows is removed. In the end DNS has to answer without them.
func (b *builder) leave() error {
	b.lostMembers()
	var stays []string
	for _, h := range b.inv.Nodes() {
		stays = append(stays, id(h.Name, "ready"))
	}
	for _, h := range b.members {
		stays = append(stays, id(h.Name, "etcd"))
	}
	via := b.planes[0].Name
	var all []string // steps
	for _, h := range b.inv.Leaving() {
		needs := stays
		step := func(s Step) {
			s.ID, s.Host, s.Phase, s.Needs = id(h.Name, s.ID), h.Name, PhaseLeave, needs
			b.add(s)
			needs = append(needs[:len(needs):len(needs)], s.ID)
		}
		if b.answers(h) {
			if h.IsNode() {
				step(Step{ID: "drained", Via: via, Title: "node drained", Ops: hostop.Ops{&hostop.NodeDrained{Name: h.Name, Timeout: drainTimeout}}})
			}
			if b.inv.RunsEtcd(h) && len(b.members) > 0 {
				step(b.memberGone(h))
			}
			step(Step{ID: "cleared", Title: "nothing of clusterctl", Ops: hostop.Ops{&hostop.Cleared{}}})
		}
		if h.IsNode() {
			step(Step{ID: "gone", Via: via, Title: "node removed", Ops: hostop.Ops{&hostop.NodeGone{Name: h.Name}}})
		}
		all = append(all, needs...)
	}
	if len(all) == 0 {
		return nil
	}
	available, err := b.dnsAvailable()
	if err != nil {
		return err
	}
	b.add(Step{
		ID: id(via, "dns-remains"), Host: via, Phase: PhaseLeave, Title: "cluster DNS answers without those that left",
		Needs: all, Ops: hostop.Ops{available},
	})
	return nil
}

func (b *builder) answers(h inventory.Host) bool {
	_, ok := b.facts[h.Name]
	return ok
}

func (b *builder) memberGone(h inventory.Host) Step {
	via := b.members[0]
	if existing := b.existingMembers(); len(existing) > 0 {
		via = existing[0]
	}
	return Step{
		ID: "etcd-gone", Via: via.Name, Title: "etcd member removed", Exclusive: "etcd",
		Ops: hostop.Ops{&hostop.EtcdMemberGone{Name: h.Name, Address: h.Address, Timeout: leaveTimeout}},
	}
}

// lostMembers removes the etcd members of absent hosts that do not answer,
// before anybody joins, since etcd takes nobody in while a member is silent. It
// returns the steps, and adds them once.
func (b *builder) lostMembers() (steps []string) {
	if len(b.existingMembers()) == 0 {
		return nil
	}
	for _, h := range b.inv.Leaving() {
		if b.answers(h) || !b.inv.RunsEtcd(h) {
			continue
		}
		s := b.memberGone(h)
		s.ID, s.Host, s.Phase = id(h.Name, s.ID), h.Name, PhaseEtcd
		steps = append(steps, s.ID)
		if _, ok := b.plan.Step(s.ID); ok {
			continue
		}
		for _, m := range b.existingMembers() {
			s.Needs = append(s.Needs, id(m.Name, "etcd"))
		}
		b.add(s)
	}
	return steps
}
