package core

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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
)

// proxyTo serves pods/proxy, services/proxy and nodes/proxy: HTTP and upgraded
// connections to where locate says, below the path that the request names.
type proxyTo struct {
	options func() runtime.Object
	path    func(options runtime.Object) string
	// locate takes "name", "name:port" or "scheme:name:port".
	locate func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error)
}

var _ rest.Connecter = (*proxyTo)(nil)

func (p *proxyTo) New() runtime.Object { return p.options() }
func (*proxyTo) Destroy()              {}

func (*proxyTo) ConnectMethods() []string {
	return []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
}

func (p *proxyTo) NewConnectOptions() (runtime.Object, bool, string) {
	return p.options(), true, "path"
}

func (p *proxyTo) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	location, transport, err := p.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, p.path(options))
	return proxy.NewUpgradeAwareHandler(location, transport, true, false, proxy.NewErrorResponder(responder)), nil
}

// proxyTransport reaches pods, services' endpoints and ports of nodes. Whoever
// may proxy to them chose them by name; what they present as a certificate
// cannot be known here.
var proxyTransport = utilnet.SetTransportDefaults(&http.Transport{
	DialContext:     (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
})

// proxyable refuses loopback, link-local and other addresses by which the
// proxy would reach the API server's own host.
func proxyable(ip string) error {
	if parsed := net.ParseIP(ip); parsed == nil || !parsed.IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func newPodProxy(pods podReader) *proxyTo {
	return &proxyTo{
		options: func() runtime.Object { return &corev1.PodProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.PodProxyOptions).Path },
		locate: func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
			scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
			if !valid {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
			}
			pod, err := pods.get(ctx, name)
			if err != nil {
				return nil, nil, err
			}
			for i := 0; port == "" && i < len(pod.Spec.Containers); i++ {
				if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
					port = strconv.Itoa(int(ports[0].ContainerPort))
				}
			}
			ip := pod.Status.PodIP
			if err := proxyable(ip); err != nil {
				return nil, nil, err
			}
			return &url.URL{Scheme: scheme, Host: hostPort(ip, port)}, proxyTransport, nil
		},
	}
}

// hostPort joins address and port, which may be none.
func hostPort(ip, port string) string {
	if port != "" {
		return net.JoinHostPort(ip, port)
	}
	if net.ParseIP(ip).To4() == nil {
		return "[" + ip + "]"
	}
	return ip
}

func newNodeProxy(nodes api.NodeConnector) *proxyTo {
	return &proxyTo{
		options: func() runtime.Object { return &corev1.NodeProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.NodeProxyOptions).Path },
		locate: func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
			scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
			if !valid {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
			}
			agent, transport, err := nodes.Connect(ctx, types.NodeName(name))
			if err != nil {
				return nil, nil, err
			}
			if err := proxyable(agent.Hostname()); err != nil {
				return nil, nil, err
			}
			if port == "" || port == agent.Port() {
				return &url.URL{Scheme: agent.Scheme, Host: agent.Host}, transport, nil
			}
			return &url.URL{Scheme: scheme, Host: net.JoinHostPort(agent.Hostname(), port)}, proxyTransport, nil
		},
	}
}
