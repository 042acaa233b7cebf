package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/nodeagent/netnstest"
)

// testIngress asks the host that serves Ingresses, as a browser does.
func (c *cluster) testIngress(t *testing.T) {
	const namespace = "shop"
	c.namespace(t, namespace, nil)
	var pods []*v1.Pod
	for service, node := range map[string]string{"front": "cp1", "back": "worker1", "socket": "cp1"} {
		pods = append(pods, &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service, Labels: map[string]string{"app": service}},
			Spec:       v1.PodSpec{NodeName: node, Containers: []v1.Container{{}}},
		})
	}
	pods = c.startPods(t, pods...)
	networks := c.networks(t, "cp1", "worker1")
	client := c.client(t, "")
	for _, pod := range pods {
		handler := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s %s", pod.Name, r.Host, r.URL) }
		if pod.Name == "socket" {
			handler = echoUpgraded
		}
		serve(t, networks, pod, handler)
		_, err := client.CoreV1().Services(namespace).Create(t.Context(), &v1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name},
			Spec:       v1.ServiceSpec{Selector: pod.Labels, Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.CoreV1().Secrets(namespace).Create(t.Context(), certificate(t, "shop.example"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	path := func(kind networkingv1.PathType, path, service string) networkingv1.HTTPIngressPath {
		return networkingv1.HTTPIngressPath{Path: path, PathType: &kind, Backend: networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}}
	}
	_, err := client.NetworkingV1().Ingresses(namespace).Create(t.Context(), &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "shop"},
		Spec: networkingv1.IngressSpec{
			TLS: []networkingv1.IngressTLS{{Hosts: []string{"shop.example"}, SecretName: "shop.example"}},
			Rules: []networkingv1.IngressRule{{Host: "shop.example", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{
					path(networkingv1.PathTypePrefix, "/", "front"),
					path(networkingv1.PathTypePrefix, "/api", "back"),
					path(networkingv1.PathTypeExact, "/api/front", "front"),
					path(networkingv1.PathTypePrefix, "/socket", "socket"),
				}}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	address := c.address(t, "worker1")
	for _, want := range []struct{ scheme, host, path, answer string }{
		{"https", "shop.example", "/", "front shop.example /"},
		{"https", "shop.example", "/apix?a=b", "front shop.example /apix?a=b"},
		{"https", "shop.example", "/api", "back shop.example /api"},
		{"https", "shop.example", "/api/orders/", "back shop.example /api/orders/"},
		{"https", "shop.example", "/api/front", "front shop.example /api/front"},
		{"https", "shop.example", "/api/front/", "back shop.example /api/front/"},
		{"http", "elsewhere.example", "/", "404"},
		{"http", "shop.example", "/socket", "426"},
	} {
		eventually(t, time.Minute, want.host+want.path, func(ctx context.Context) error {
			got, err := ask(ctx, address, want.scheme, want.host, want.path)
			if err == nil && got != want.answer {
				err = fmt.Errorf("%s answers %q, want %q", want.scheme, got, want.answer)
			}
			return err
		})
	}
	wantEchoes(t, address)

	eventually(t, time.Minute, "the address in the status", func(ctx context.Context) error {
		got, err := client.NetworkingV1().Ingresses(namespace).Get(ctx, "shop", metav1.GetOptions{})
		if err == nil && (len(got.Status.LoadBalancer.Ingress) != 1 || got.Status.LoadBalancer.Ingress[0].IP != address) {
			err = fmt.Errorf("status %v, want %s", got.Status.LoadBalancer.Ingress, address)
		}
		return err
	})
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort(c.address(t, "cp1"), "80"), time.Second); err == nil {
		conn.Close()
		t.Error("a host that the inventory does not name listens on port 80")
	}
}

// serve answers HTTP on port 8080 of a pod until the test ends.
func serve(t *testing.T, networks networks, pod *v1.Pod, handler http.HandlerFunc) {
	t.Helper()
	ns, ok := networks[pod.Status.PodIP]
	if !ok {
		t.Fatalf("the network namespace of %s (%s) is not found", pod.Name, pod.Status.PodIP)
	}
	var listener net.Listener
	err := netnstest.Within(ns, func() (err error) {
		listener, err = net.Listen("tcp4", ":8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(listener) }()
}

// echoUpgraded says back what it hears, once the connection is a WebSocket's.
func echoUpgraded(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, buffered)
}

// wantEchoes upgrades a connection through the ingress and talks over it.
func wantEchoes(t *testing.T, address string) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", net.JoinHostPort(address, "443"),
		&tls.Config{InsecureSkipVerify: true, ServerName: "shop.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprint(conn, "GET /socket HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade: %v %v", response, err)
	}
	for _, said := range []string{"hello\n", "again\n"} {
		fmt.Fprint(conn, said)
		if heard, err := reader.ReadString('\n'); err != nil || heard != said {
			t.Fatalf("said %q, heard %q: %v", said, heard, err)
		}
	}
}

// ask asks a host for a URL. It returns the body, or the status that is not OK;
// over HTTPS the host has to show the certificate of the name.
func ask(ctx context.Context, address, scheme, host, path string) (string, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			_, port, _ := net.SplitHostPort(to)
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(address, port))
		},
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: host},
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+path, nil)
	if err != nil {
		return "", err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.TLS != nil && response.TLS.PeerCertificates[0].DNSNames[0] != host {
		return "", fmt.Errorf("it shows the certificate of %v", response.TLS.PeerCertificates[0].DNSNames)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Sprint(response.StatusCode), nil
	}
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// certificate is a Secret with a certificate that nobody trusts.
func certificate(t *testing.T, host string) *v1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	der, keyErr := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err, keyErr); err != nil {
		t.Fatal(err)
	}
	return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: host}, Type: v1.SecretTypeTLS, Data: map[string][]byte{
		v1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		v1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}}
}
