package host

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// etcdClient connects to etcd with a pair of this host's. Close it.
func (h *Hand) etcdClient(pkiDir, pair string, endpoints ...string) (*clientv3.Client, error) {
	pki := hostconfig.PKI(pkiDir)
	cert, err := tls.LoadX509KeyPair(h.path(pki.Cert(pair)), h.path(pki.Key(pair)))
	if err != nil {
		return nil, fmt.Errorf("read etcd client pair: %w", err)
	}
	anchor, err := os.ReadFile(h.path(pki.EtcdCA()))
	if err != nil {
		return nil, fmt.Errorf("read etcd's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(anchor) {
		return nil, fmt.Errorf("read etcd's CA: %s holds no certificate", pki.EtcdCA())
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: 2 * time.Second,
		TLS:         &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		Logger:      zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return client, nil
}

// etcdFault is the useful part of a client's error.
func etcdFault(err error) string {
	s := oneLine(err.Error())
	if _, cause, ok := strings.Cut(s, "desc = "); ok {
		s = cause
	}
	if errors.Is(err, context.DeadlineExceeded) && !strings.Contains(s, "transport") {
		return "no answer"
	}
	return strings.Trim(s, `"`)
}

// etcdStatus asks every member, through the one on this host or those that its
// API server uses.
func (h *Hand) etcdStatus(ctx context.Context) (*hostop.EtcdStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	pkiDir, pair, endpoints, err := h.etcdAccess()
	if err != nil {
		return nil, err
	}
	client, err := h.etcdClient(pkiDir, pair, endpoints...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	list, err := client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("list etcd members: %s", etcdFault(err))
	}
	status := &hostop.EtcdStatus{Members: make([]hostop.EtcdMemberStatus, len(list.Members))}
	var all sync.WaitGroup
	for i, m := range list.Members {
		s := &status.Members[i]
		s.ID, s.Name, s.Learner = fmt.Sprintf("%x", m.ID), m.Name, m.IsLearner
		if len(m.PeerURLs) > 0 {
			s.PeerURL = m.PeerURLs[0]
		}
		if len(m.ClientURLs) == 0 {
			s.Error = "has not started yet"
			continue
		}
		all.Go(func() { h.askMember(ctx, pkiDir, pair, m.ClientURLs[0], s) })
	}
	all.Wait()
	return status, nil
}

// etcdAccess finds a pair and endpoints in this host's configuration.
func (h *Hand) etcdAccess() (pkiDir, pair string, endpoints []string, err error) {
	var etcd hostconfig.Etcd
	if hostconfig.Load(h.path(hostconfig.EtcdConf), &etcd) == nil {
		return etcd.PKIDir, hostconfig.PairEtcd, []string{etcdURL(etcd.Address, cmp.Or(etcd.ClientPort, hostconfig.PortEtcdClient))}, nil
	}
	var cp hostconfig.ControlPlane
	if err := hostconfig.Load(h.path(hostconfig.CPConf), &cp); err != nil {
		return "", "", nil, errors.New("this host has no access to etcd: it is neither a member nor a control plane")
	}
	return cp.PKIDir, hostconfig.PairAPIServerEtcd, cp.Etcd, nil
}

// askMember fills in what a member says of itself.
func (h *Hand) askMember(ctx context.Context, pkiDir, pair, url string, s *hostop.EtcdMemberStatus) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	client, err := h.etcdClient(pkiDir, pair, url)
	if err != nil {
		s.Error = err.Error()
		return
	}
	defer client.Close()
	answer, err := client.Status(ctx, url)
	if err != nil {
		s.Error = etcdFault(err)
		return
	}
	s.Leader = answer.Leader != 0 && answer.Leader == answer.Header.MemberId
	s.Version, s.DBSize, s.Revision = answer.Version, answer.DbSize, answer.Header.Revision
	s.Healthy = answer.Leader != 0 && len(answer.Errors) == 0
	if len(answer.Errors) > 0 {
		s.Error = strings.Join(answer.Errors, "; ")
	}
}
