package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"clusterctl/hostconfig"
)

// promote makes a learner a voter, through the members that were there before.
// It says what it is waiting for.
func (m *member) promote(ctx context.Context) string {
	if len(m.op.Peers) == 0 {
		return "waiting for etcd to lead"
	}
	client, err := m.peers()
	if err != nil {
		return err.Error()
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return "waiting for the other members: " + etcdFault(err)
	}
	self := m.find(list.Members)
	switch {
	case self == nil:
		return "not in the list of members"
	case self.IsLearner:
		if _, err := client.MemberPromote(ctx, self.ID); err != nil && !errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return "catching up: " + etcdFault(err)
		}
	}
	return ""
}

// answering is the list of members as the others tell it; empty when none
// answers.
func (m *member) answering(ctx context.Context) []*etcdserverpb.Member {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	lists := make(chan []*etcdserverpb.Member, len(m.op.Peers))
	for _, peer := range m.op.Peers {
		go func() {
			members, err := m.list(ctx, peer)
			if err != nil {
				m.hand.log.Debug("etcd member does not answer", "member", peer, "error", err)
			}
			lists <- members
		}()
	}
	for range m.op.Peers {
		if members := <-lists; len(members) > 0 {
			return members
		}
	}
	return nil
}

// list asks one member for all. A port that is closed is an answer at once.
func (m *member) list(ctx context.Context, address string) ([]*etcdserverpb.Member, error) {
	if err := listening(ctx, address); err != nil {
		return nil, err
	}
	client, err := m.hand.etcdClient(m.config.PKIDir, hostconfig.PairEtcd, address)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	// Not linearizable: a member without a quorum is a member all the same.
	list, err := client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, err
	}
	return list.Members, nil
}

// listening tells whether anything accepts connections at an https address:
// etcd's client would go on trying.
func listening(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("parse etcd address: %w", err)
	}
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (m *member) peers() (*clientv3.Client, error) {
	return m.hand.etcdClient(m.config.PKIDir, hostconfig.PairEtcd, m.op.Peers...)
}

func (m *member) status(ctx context.Context, url string) (*clientv3.StatusResponse, error) {
	if err := listening(ctx, url); err != nil {
		return nil, err
	}
	client, err := m.hand.etcdClient(m.config.PKIDir, hostconfig.PairEtcd, url)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return client.Status(ctx, url)
}
