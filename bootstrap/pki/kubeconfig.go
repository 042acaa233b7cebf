package pki

import (
	"fmt"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// Administrator is the identity in the kubeconfig of whoever runs clusterctl.
const (
	Administrator  = "clusterctl:admin"
	AdminGroup     = "system:masters"
	kubeconfigUser = "admin"
)

// HostKubeconfig is hostconfig.AdminCfg: it names the admin pair's files and
// holds no secret itself.
func HostKubeconfig(cluster string) ([]byte, error) {
	files := hostconfig.PKI(hostconfig.PKIDir)
	return kubeconfig(cluster,
		&clientcmdapi.Cluster{
			Server:               fmt.Sprintf("https://127.0.0.1:%d", hostconfig.PortAPI),
			CertificateAuthority: files.ClusterCA(),
		},
		&clientcmdapi.AuthInfo{
			ClientCertificate: files.Cert(hostconfig.PairAdmin),
			ClientKey:         files.Key(hostconfig.PairAdmin),
		})
}

// Kubeconfig is what an operator outside the cluster uses: server is an https
// URL, and certificates and key stand inside. It is a secret.
func Kubeconfig(cluster, server string, ca, cert, key []byte) ([]byte, error) {
	return kubeconfig(cluster,
		&clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca},
		&clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key})
}

// AdminKubeconfig issues an administrator's pair and renders the operator's
// kubeconfig with it, for an https URL of the API.
func (b Bundle) AdminKubeconfig(cluster, server string, now time.Time) ([]byte, error) {
	cert, key, err := b.Issue(AdminCertificate(), now)
	if err != nil {
		return nil, err
	}
	return Kubeconfig(cluster, server, b.Certificate(hostconfig.AuthorityCluster), cert, key)
}

// AdminCertificate is the pair hostconfig.PairAdmin.
func AdminCertificate() hostop.Certificate {
	return hostop.Certificate{
		PKIDir: hostconfig.PKIDir, Pair: hostconfig.PairAdmin, Authority: hostconfig.AuthorityCluster,
		CommonName: Administrator, Organization: []string{AdminGroup}, Client: true,
	}
}

func kubeconfig(cluster string, server *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) ([]byte, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters[cluster] = server
	config.AuthInfos[cluster+"-"+kubeconfigUser] = user
	config.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: cluster + "-" + kubeconfigUser}
	config.CurrentContext = cluster
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("render kubeconfig of %s: %w", cluster, err)
	}
	return raw, nil
}
