package main

import (
	"os/exec"
	"strconv"

	"clusterctl/hostconfig"
	"clusterctl/test/bench/host"
)

// server is how to start one: it writes the files that it needs.
type server func(h *host.Host) (*exec.Cmd, error)

func ourServer(program string) server {
	return func(h *host.Host) (*exec.Cmd, error) { return h.Configured(program, "apiserver", h.Config) }
}

// stockServer has what ours has by default: Node and RBAC, aggregation,
// NodeRestriction beside upstream's plugins, no audit log.
func stockServer(program string) server {
	return func(h *host.Host) (*exec.Cmd, error) {
		return exec.Command(program,
			"--etcd-servers="+h.URL(1), "--etcd-cafile="+h.PKI.EtcdCA(),
			"--etcd-certfile="+h.PKI.Cert(hostconfig.PairAPIServerEtcd), "--etcd-keyfile="+h.PKI.Key(hostconfig.PairAPIServerEtcd),
			"--bind-address=127.0.0.1", "--advertise-address="+host.Advertised, "--secure-port="+strconv.Itoa(h.Ports[0]),
			"--tls-cert-file="+h.PKI.Cert(hostconfig.PairAPIServer), "--tls-private-key-file="+h.PKI.Key(hostconfig.PairAPIServer),
			"--client-ca-file="+h.PKI.ClusterCA(), "--requestheader-client-ca-file="+h.PKI.FrontProxyCA(),
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file="+h.PKI.Cert(hostconfig.PairFrontProxy), "--proxy-client-key-file="+h.PKI.Key(hostconfig.PairFrontProxy),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+h.PKI.ServiceAccountPub(),
			"--service-account-signing-key-file="+h.PKI.ServiceAccountKey(),
			"--service-cluster-ip-range="+h.Config.Cluster.ServiceCIDR, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		), nil
	}
}
