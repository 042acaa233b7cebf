package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"sigs.k8s.io/yaml"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// memberFile remembers which member this host became.
const memberFile = hostconfig.HandDir + "/etcd-member.json"

// memberRecord is the content of memberFile. It is written before etcd starts,
// so a data directory without a record of the same member is not this member's.
type memberRecord struct {
	ID      uint64 `json:"id,omitempty"` // 0: founded, so the ID follows from the configuration
	Founded bool   `json:"founded,omitempty"`
	Voted   bool   `json:"voted,omitempty"` // it was seen voting
}

// member is one EtcdMember operation at work.
type member struct {
	hand   *Hand
	op     *hostop.EtcdMember
	config hostconfig.Etcd // without InitialCluster and InitialState
	local  string          // https://address:2379
	peer   string          // https://address:2380
}

func (h *Hand) member(o *hostop.EtcdMember) (*member, error) {
	m := &member{hand: h, op: o}
	if err := yaml.UnmarshalStrict(o.Config, &m.config); err != nil {
		return nil, fmt.Errorf("parse etcd configuration: %w", err)
	}
	m.local = etcdURL(m.config.Address, cmp.Or(m.config.ClientPort, hostconfig.PortEtcdClient))
	m.peer = etcdURL(m.config.Address, cmp.Or(m.config.PeerPort, hostconfig.PortEtcdPeer))
	return m, nil
}

func etcdURL(host string, port int) string {
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}

func (h *Hand) checkEtcdMember(ctx context.Context, o *hostop.EtcdMember) (string, error) {
	m, err := h.member(o)
	if err != nil {
		return "", err
	}
	if !m.hasData() {
		return "has no data yet", nil
	}
	if same, err := m.sameConfig(); err != nil || !same {
		return "has another configuration", err
	}
	if differs, err := h.checkService(ctx, &hostop.Service{Name: hostconfig.UnitEtcd, Fingerprint: o.Fingerprint}); err != nil || differs != "" {
		return differs, err
	}
	return m.voting(ctx)
}

func (m *member) hasData() bool {
	return m.hand.exists(filepath.Join(m.config.DataDir, "member", "wal"))
}

// sameConfig compares EtcdConf with what is wanted, but for what only the first
// start reads.
func (m *member) sameConfig() (bool, error) {
	have, err := m.writtenConfig()
	if err != nil || have == nil {
		return false, err
	}
	want := m.config
	want.InitialCluster, want.InitialState = have.InitialCluster, have.InitialState
	return *have == want, nil
}

// writtenConfig is EtcdConf as it stands, nil when there is none to be read.
func (m *member) writtenConfig() (*hostconfig.Etcd, error) {
	raw, err := os.ReadFile(m.hand.path(hostconfig.EtcdConf))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read etcd configuration: %w", err)
	}
	var have hostconfig.Etcd
	if err := yaml.UnmarshalStrict(raw, &have); err != nil {
		return nil, nil // damaged, or of another version: it is written anew
	}
	return &have, nil
}

func (m *member) writeConfig(initialCluster, initialState string) error {
	config := m.config
	config.InitialCluster, config.InitialState = initialCluster, initialState
	raw, err := hostconfig.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode etcd configuration: %w", err)
	}
	return m.hand.writeFile(hostconfig.EtcdConf, 0o600, raw)
}

// voting says what this host's own member lacks to be a voter.
func (m *member) voting(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := listening(ctx, m.local); err != nil {
		return "does not listen yet", nil
	}
	client, err := m.hand.etcdClient(m.config.PKIDir, hostconfig.PairEtcd, m.local)
	if err != nil {
		return "", err
	}
	defer client.Close()
	list, err := client.MemberList(ctx)
	switch {
	case err != nil && strings.Contains(err.Error(), "not supported for learner"):
		return "is a learner still", nil
	case err != nil:
		return "does not answer: " + etcdFault(err), nil
	}
	self := m.find(list.Members)
	switch {
	case self == nil:
		return "is not in the list of members", nil
	case self.Name == "":
		return "has not announced itself yet", nil
	case self.IsLearner:
		return "is a learner still", nil
	}
	// A read that needs a quorum shows that it takes part.
	if _, err := client.Get(ctx, "health"); err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return "serves no reads: " + etcdFault(err), nil
	}
	return "", nil
}

func (m *member) find(members []*etcdserverpb.Member) *etcdserverpb.Member {
	i := slices.IndexFunc(members, func(e *etcdserverpb.Member) bool { return slices.Contains(e.PeerURLs, m.peer) })
	if i < 0 {
		return nil
	}
	return members[i]
}

// applyEtcdMember takes the next step from wherever the host stands: a run
// killed after any of them is carried on by the next.
func (h *Hand) applyEtcdMember(ctx context.Context, o *hostop.EtcdMember, progress func(string)) error {
	m, err := h.member(o)
	if err != nil {
		return err
	}
	limit := o.Timeout
	if limit <= 0 {
		limit = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := h.secretDirectory(m.config.DataDir); err != nil {
		return err
	}
	if m.hasData() {
		err = m.resume(ctx, progress)
	} else {
		err = m.begin(ctx, progress)
	}
	if err != nil {
		return err
	}
	return m.awaitVote(ctx, limit, progress)
}

// begin starts a member that has no data: as the cluster's first, or by joining.
func (m *member) begin(ctx context.Context, progress func(string)) error {
	record, err := m.record()
	if err != nil {
		return err
	}
	if m.op.Found && len(m.answering(ctx)) == 0 {
		if record.Voted {
			return fmt.Errorf("this host was an etcd member and its data in %s is gone, while no other member answers; start the others first, or restore the data (to really begin anew, remove %s)", m.config.DataDir, memberFile)
		}
		progress("founding a new etcd cluster")
		if err := m.saveRecord(memberRecord{Founded: true}); err != nil {
			return err
		}
		if err := m.writeConfig(m.config.Name+"="+m.peer, "new"); err != nil {
			return err
		}
		return m.start(ctx)
	}
	if len(m.op.Peers) == 0 {
		return errors.New("there is no member to join and this host may not found a cluster")
	}
	progress("joining etcd as a learner")
	var id uint64
	var members []*etcdserverpb.Member
	err = until(ctx, time.Hour, 300*time.Millisecond, progress, func(ctx context.Context) (string, error) {
		var err error
		id, members, err = m.join(ctx, record)
		return "", err
	})
	if err != nil {
		return fmt.Errorf("join etcd: %w", err)
	}
	if err := m.saveRecord(memberRecord{ID: id}); err != nil {
		return err
	}
	if err := m.writeConfig(initialCluster(members, id, m.config.Name), "existing"); err != nil {
		return err
	}
	return m.start(ctx)
}

// join makes sure that the cluster has a member for this host's peer URL which
// was never started, and returns all members.
func (m *member) join(ctx context.Context, record memberRecord) (uint64, []*etcdserverpb.Member, error) {
	client, err := m.peers()
	if err != nil {
		return 0, nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return 0, nil, errors.New(etcdFault(err))
	}
	if self := m.find(list.Members); self != nil {
		if self.Name != "" {
			return 0, nil, &finalError{fmt.Errorf("etcd knows this host as member %x (%s), started before, but its data in %s is gone; remove that member (etcdctl member remove %x through another member), then run again to join anew", self.ID, self.Name, m.config.DataDir, self.ID)}
		}
		return self.ID, list.Members, nil // an earlier run was killed before the start
	}
	added, err := client.MemberAddAsLearner(ctx, []string{m.peer})
	switch {
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return 0, nil, errors.New("another host is joining")
	case errors.Is(err, rpctypes.ErrUnhealthy):
		// etcd's own rule, so that a member that just came is not counted on.
		return 0, nil, errors.New("waiting until all members have been connected for 5 s")
	case err != nil:
		return 0, nil, errors.New(etcdFault(err))
	}
	return added.Member.ID, added.Members, nil
}

// initialCluster is name=url of every member. Members are compared by URL, so
// any name will do for one that has not told its own yet.
func initialCluster(members []*etcdserverpb.Member, self uint64, name string) string {
	var pairs []string
	for _, m := range members {
		n := cmp.Or(m.Name, fmt.Sprintf("%x", m.ID))
		if m.ID == self {
			n = name
		}
		for _, address := range m.PeerURLs {
			pairs = append(pairs, n+"="+address)
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

// resume starts a member that has data, with the configuration wanted now.
func (m *member) resume(ctx context.Context, progress func(string)) error {
	if err := m.belongs(ctx); err != nil {
		return err
	}
	have, err := m.writtenConfig()
	if err != nil {
		return err
	}
	same, err := m.sameConfig()
	if err != nil {
		return err
	}
	if !same {
		cluster, state := m.config.Name+"="+m.peer, "existing"
		if have != nil {
			cluster, state = have.InitialCluster, have.InitialState
		}
		if err := m.writeConfig(cluster, state); err != nil {
			return err
		}
	}
	differs, err := m.hand.checkService(ctx, &hostop.Service{Name: hostconfig.UnitEtcd, Fingerprint: m.op.Fingerprint})
	if err != nil {
		return err
	}
	if same && differs == "" {
		return nil
	}
	status, err := m.hand.init.Status(ctx, hostconfig.UnitEtcd)
	if err != nil {
		return err
	}
	if status.Active == "active" {
		if err := m.mayStop(ctx); err != nil {
			return err
		}
	}
	progress("starting etcd")
	return m.start(ctx)
}

// belongs asks the other members whether the data here is of a member that
// they know. Where none answers there is nobody to contradict.
func (m *member) belongs(ctx context.Context) error {
	members := m.answering(ctx)
	if len(members) == 0 {
		return nil
	}
	record, err := m.record()
	if err != nil {
		return err
	}
	self := m.find(members)
	if self == nil {
		return fmt.Errorf("the etcd data in %s is of a member that was removed from the cluster (%s is not in its list of members); move the directory away, then run again to join anew", m.config.DataDir, m.peer)
	}
	if !record.Founded && record.ID != 0 && record.ID != self.ID {
		return fmt.Errorf("the etcd data in %s is of member %x, but the cluster knows this host as member %x; move the directory away, then run again", m.config.DataDir, record.ID, self.ID)
	}
	return nil
}

// mayStop refuses to restart a voter without which the others have no quorum.
func (m *member) mayStop(ctx context.Context) error {
	members := m.answering(ctx)
	voters, healthy := 0, 0
	for _, other := range members {
		if other.IsLearner {
			continue
		}
		voters++
		if slices.Contains(other.PeerURLs, m.peer) || len(other.ClientURLs) == 0 {
			continue
		}
		if _, err := m.status(ctx, other.ClientURLs[0]); err == nil {
			healthy++
		}
	}
	if voters > 2 && healthy < voters/2+1 {
		return fmt.Errorf("etcd has to be restarted here, but only %d of the %d other members are healthy and the cluster would lose its quorum; mend those first", healthy, voters-1)
	}
	return nil
}

func (m *member) start(ctx context.Context) error {
	return m.hand.startService(ctx, hostconfig.UnitEtcd, m.op.Fingerprint)
}

// awaitVote waits until the member takes part, promoting it when it has caught
// up.
func (m *member) awaitVote(ctx context.Context, limit time.Duration, progress func(string)) error {
	err := until(ctx, limit, 200*time.Millisecond, progress, func(ctx context.Context) (string, error) {
		differs, err := m.voting(ctx)
		if err != nil || differs == "" {
			return differs, err
		}
		status, err := m.hand.init.Status(ctx, hostconfig.UnitEtcd)
		if err == nil && (status.Active == "failed" || status.Restarts > 2) {
			return "", &finalError{errors.New("etcd does not stay up")}
		}
		if fault := m.promote(ctx); fault != "" {
			return fault, nil
		}
		return m.voting(ctx)
	})
	if err != nil {
		return m.hand.withJournal(ctx, hostconfig.UnitEtcd, fmt.Errorf("wait for etcd: %w", err))
	}
	record, err := m.record()
	if err != nil {
		return err
	}
	record.Voted = true
	return m.saveRecord(record)
}

func (m *member) record() (memberRecord, error) {
	var record memberRecord
	raw, err := os.ReadFile(m.hand.path(memberFile))
	if errors.Is(err, fs.ErrNotExist) {
		return record, nil
	}
	if err != nil {
		return record, fmt.Errorf("read the record of this member: %w", err)
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return memberRecord{}, nil // damaged: as if it had never been written
	}
	return record, nil
}

func (m *member) saveRecord(record memberRecord) error {
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("record this member: %w", err)
	}
	return m.hand.writeFile(memberFile, 0o600, raw)
}
