package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"

	"clusterctl/hostconfig"
)

// Keeper renews the agent's certificates.
type Keeper struct {
	client, serving certificate.Manager
}

// New makes a keeper of the pairs in pki. addresses are the node's, IP addresses
// or DNS names, for the serving certificate: it is renewed when there is one that
// it does not have. Nothing is renewed before Run.
func New(ctx context.Context, pki hostconfig.PKI, nodeName string, addresses func() []string, client kubernetes.Interface) (*Keeper, error) {
	subject := pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}}
	clientset := func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil }
	k := &Keeper{}
	var err error
	k.client, err = certificate.NewManager(&certificate.Config{
		ClientsetFn:      clientset,
		Template:         &x509.CertificateRequest{Subject: subject},
		SignerName:       certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages:        certificate.DefaultKubeletClientGetUsages,
		CertificateStore: &store{cert: pki.Cert(hostconfig.PairNode), key: pki.Key(hostconfig.PairNode)},
		Name:             hostconfig.PairNode,
		Ctx:              &ctx,
	})
	if err != nil {
		return nil, fmt.Errorf("load client certificate: %w", err)
	}
	template := func() *x509.CertificateRequest {
		request := &x509.CertificateRequest{Subject: subject, DNSNames: []string{nodeName}}
		for _, address := range addresses() {
			if ip := net.ParseIP(address); ip != nil {
				request.IPAddresses = append(request.IPAddresses, ip)
			} else {
				request.DNSNames = append(request.DNSNames, address)
			}
		}
		return request
	}
	k.serving, err = certificate.NewManager(&certificate.Config{
		ClientsetFn:      clientset,
		GetTemplate:      template,
		SignerName:       certificatesv1.KubeletServingSignerName,
		GetUsages:        certificate.DefaultKubeletServingGetUsages,
		CertificateStore: &store{cert: pki.Cert(hostconfig.PairNodeServing), key: pki.Key(hostconfig.PairNodeServing)},
		Name:             hostconfig.PairNodeServing,
		Ctx:              &ctx,
	})
	if err != nil {
		return nil, fmt.Errorf("load serving certificate: %w", err)
	}
	return k, nil
}

// Run renews until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	k.client.Start()
	k.serving.Start()
	<-ctx.Done()
	k.client.Stop()
	k.serving.Stop()
	return nil
}

// Serving is the pair to serve with, for tls.Config.GetCertificate.
func (k *Keeper) Serving(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := k.serving.Current(); pair != nil {
		return pair, nil
	}
	return nil, errors.New("no serving certificate yet")
}
