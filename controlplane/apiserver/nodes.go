package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	certutil "k8s.io/client-go/util/cert"

	"clusterctl/controlplane/api"
	"clusterctl/hostconfig"
)

// nodeConnector reaches node agents at their internal address, known to them
// by the API server's client certificate, knowing them by the cluster's CA.
type nodeConnector struct {
	lookup    func(ctx context.Context, name string) (*corev1.Node, error)
	transport *http.Transport
}

var _ api.NodeConnector = (*nodeConnector)(nil)

func (s *Server) nodeConnector() (*nodeConnector, error) {
	pki := hostconfig.PKI(s.config.PKIDir)
	roots, err := certutil.NewPool(pki.ClusterCA())
	if err != nil {
		return nil, fmt.Errorf("load authority of the node agents: %w", err)
	}
	cert, key := pki.Cert(hostconfig.PairAPIServerNode), pki.Key(hostconfig.PairAPIServerNode)
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &nodeConnector{
		lookup: func(ctx context.Context, name string) (*corev1.Node, error) {
			object, err := s.lookupObject(ctx, "nodes", "", name)
			if err != nil {
				return nil, err
			}
			node, ok := object.(*corev1.Node)
			if !ok {
				return nil, fmt.Errorf("look up node %s: got a %T", name, object)
			}
			return node, nil
		},
		transport: &http.Transport{
			DialContext:         dialer.DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     90 * time.Second,
			MaxIdleConnsPerHost: 8,
			TLSClientConfig: &tls.Config{
				RootCAs:    roots,
				MinVersion: tls.VersionTLS12,
				// Read at each handshake, so that a renewed pair counts at once.
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					pair, err := tls.LoadX509KeyPair(cert, key)
					if err != nil {
						return nil, fmt.Errorf("load client certificate for node agents: %w", err)
					}
					return &pair, nil
				},
			},
		},
	}, nil
}

// Connect implements api.NodeConnector.
func (c *nodeConnector) Connect(ctx context.Context, name types.NodeName) (*url.URL, http.RoundTripper, error) {
	node, err := c.lookup(ctx, string(name))
	if err != nil {
		return nil, nil, err
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = hostconfig.PortNodeAgent
	}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return &url.URL{Scheme: "https", Host: net.JoinHostPort(address.Address, strconv.Itoa(port))}, c.transport, nil
		}
	}
	return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has reported no internal address yet", name))
}
