package hostconfig

import "path/filepath"

// PKI is the directory that holds a host's keys and certificates (PKIDir in
// production, a temporary directory in tests). All files are PEM, keys 0600.
//
//	ca/                      control planes only; replaced as a whole directory
//	  cluster.{crt,key}        signs API server, nodes, clients
//	  etcd.{crt,key}           signs etcd members and their clients
//	  front-proxy.{crt,key}    signs the aggregation layer's client
//	  service-account.{key,pub} signs service-account tokens (EC P-256)
//	encryption.yaml          control planes only: the keys of Secrets in etcd; changed by their rotation only
//	cluster-ca.crt           every node
//	etcd-ca.crt              etcd members and control planes
//	front-proxy-ca.crt       control planes
//	apiserver.{crt,key}      serving, 6443
//	apiserver-etcd.{crt,key} client of etcd
//	apiserver-node.{crt,key} client of the node agents' 10250
//	front-proxy.{crt,key}    client of aggregated API servers
//	etcd.{crt,key}           etcd: server and peer, and client of its peers
//	node.{crt,key}           node agent: client system:node:NAME
//	node-serving.{crt,key}   node agent: serving, 10250
//	admin.{crt,key}          control planes only: client clusterctl:admin, group system:masters
type PKI string

// AuthorityDir is where the CA keys lie; it exists on control planes only.
func (p PKI) AuthorityDir() string { return filepath.Join(string(p), "ca") }

// ServiceAccountKey and ServiceAccountPub sign and verify service-account tokens.
func (p PKI) ServiceAccountKey() string {
	return filepath.Join(p.AuthorityDir(), "service-account.key")
}
func (p PKI) ServiceAccountPub() string {
	return filepath.Join(p.AuthorityDir(), "service-account.pub")
}

// Encryption is the EncryptionConfiguration of the host's API server.
func (p PKI) Encryption() string { return filepath.Join(string(p), "encryption.yaml") }

// Trust anchors.
func (p PKI) ClusterCA() string    { return filepath.Join(string(p), "cluster-ca.crt") }
func (p PKI) EtcdCA() string       { return filepath.Join(string(p), "etcd-ca.crt") }
func (p PKI) FrontProxyCA() string { return filepath.Join(string(p), "front-proxy-ca.crt") }

// Leaf pair names, for Cert and Key.
const (
	PairAPIServer     = "apiserver"
	PairAPIServerEtcd = "apiserver-etcd"
	PairAPIServerNode = "apiserver-node"
	PairFrontProxy    = "front-proxy"
	PairEtcd          = "etcd"
	PairNode          = "node"
	PairNodeServing   = "node-serving"
	PairAdmin         = "admin"
)

// Cert and Key name the files of a leaf pair.
func (p PKI) Cert(pair string) string { return filepath.Join(string(p), pair+".crt") }
func (p PKI) Key(pair string) string  { return filepath.Join(string(p), pair+".key") }

// Authorities, for AuthorityCert and AuthorityKey.
const (
	AuthorityCluster    = "cluster"
	AuthorityEtcd       = "etcd"
	AuthorityFrontProxy = "front-proxy"
)

// AuthorityCert and AuthorityKey name a CA's files inside AuthorityDir.
func (p PKI) AuthorityCert(ca string) string { return filepath.Join(p.AuthorityDir(), ca+".crt") }
func (p PKI) AuthorityKey(ca string) string  { return filepath.Join(p.AuthorityDir(), ca+".key") }
