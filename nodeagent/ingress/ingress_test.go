package ingress

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"clusterctl/hostconfig"
)

// patience is how long something may take on a busy machine.
const patience = 60 * time.Second

// cluster is a served cluster whose API is a fake.
type cluster struct {
	client      *fake.Clientset
	http, https string // host:port
	stop        context.CancelFunc
	done        chan error
}

func start(t *testing.T, settings hostconfig.Ingress, objects ...runtime.Object) *cluster {
	t.Helper()
	settings.Nodes = []string{"n1", "n2", "n3"}
	for name, ready := range map[string]v1.ConditionStatus{"n1": v1.ConditionTrue, "n2": v1.ConditionFalse, "n3": v1.ConditionTrue, "elsewhere": v1.ConditionTrue} {
		objects = append(objects, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NodeStatus{
			Addresses:  []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2." + name[len(name)-1:]}},
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: ready}}}})
	}
	objects = append(objects, &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: hostconfig.IngressClass}, Spec: networkingv1.IngressClassSpec{Controller: hostconfig.IngressController}})
	c := &cluster{client: fake.NewClientset(objects...), done: make(chan error, 1)}
	factory := informers.NewSharedInformerFactory(c.client, 0)
	listening := make(chan [2]net.Addr, 1)
	config := Config{
		Settings: settings, NodeName: "n1", HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", Drain: patience, Client: c.client,
		Ingresses: factory.Networking().V1().Ingresses(), Classes: factory.Networking().V1().IngressClasses(),
		Services: factory.Core().V1().Services(), Slices: factory.Discovery().V1().EndpointSlices(), Nodes: factory.Core().V1().Nodes(),
		Metrics: NewMetrics(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Listening: func(http, https net.Addr) { listening <- [2]net.Addr{http, https} },
	}
	config.Ask()
	config.Services.Informer()
	config.Slices.Informer()
	config.Nodes.Informer()
	ctx, stop := context.WithCancel(t.Context())
	c.stop = stop
	factory.Start(ctx.Done())
	ended := make(chan struct{})
	go func() {
		c.done <- Run(ctx, config)
		close(ended)
	}()
	t.Cleanup(func() { stop(); <-ended })
	select {
	case at := <-listening:
		c.http, c.https = at[0].String(), at[1].String()
	case <-time.After(patience):
		t.Fatal("nothing listens")
	}
	return c
}

// service gives what a backend is reached by: one Service with one endpoint for
// each server.
func service(name, app string, servers ...*httptest.Server) []runtime.Object {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Name: "web", Port: 80}}}}
	if app != "" {
		s.Spec.Ports[0].AppProtocol = &app
	}
	found := []runtime.Object{s}
	for i, server := range servers {
		found = append(found, slice(fmt.Sprint(name, "-", i), name, server.Listener.Addr().String()))
	}
	return found
}

func slice(name, service, address string) *discoveryv1.EndpointSlice {
	host, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("web"), Port: ptr.To(int32(number))}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{host}}},
	}
}

// server is a backend that closes with the test.
func server(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// ask asks for a URL of a host; serverName turns TLS on.
func (c *cluster) ask(t *testing.T, serverName string, request *http.Request) (*http.Response, string, error) {
	t.Helper()
	address, scheme := c.http, "http"
	if serverName != "" {
		address, scheme = c.https, "https"
	}
	request.URL.Scheme, request.URL.Host = scheme, request.Host
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: serverName},
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err
}

func get(t *testing.T, host, path string) *http.Request {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func (c *cluster) expect(t *testing.T, host, path string, status int, text string) {
	t.Helper()
	response, body, err := c.ask(t, "", get(t, host, path))
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != status || !strings.Contains(body, text) {
		t.Errorf("%s%s: %d %q, want %d %q", host, path, response.StatusCode, body, status, text)
	}
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !check(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestServesWhatIngressesSay(t *testing.T) {
	heard := make(chan http.Header, 1)
	a := server(t, func(w http.ResponseWriter, r *http.Request) {
		heard <- r.Header.Clone()
		fmt.Fprintf(w, "a %s %s", r.Host, r.URL)
	})
	gone := httptest.NewServer(says("gone"))
	gone.Close() // still listed: it cannot be connected to
	objects := append(service("a", "", a), service("b", "", server(t, says("b")), gone)...)
	objects = append(objects, service("empty", "")...)
	objects = append(objects, service("dead", "", gone)...)
	objects = append(objects, service("sink", "", server(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))...)
	i := ingress("i", "", rule("foo.org", "Prefix /a a", "Exact /b b", "Prefix /empty empty", "Prefix /dead dead", "Prefix /sink sink"))
	c := start(t, hostconfig.Ingress{MaxBodyBytes: 10}, append(objects, i)...)

	request := get(t, "foo.org", "/a/x?q=%201")
	request.Header.Set("X-Forwarded-For", "203.0.113.9")
	request.Header.Set("X-Real-Ip", "203.0.113.9")
	_, body, err := c.ask(t, "", request)
	if err != nil || body != "a foo.org /a/x?q=%201" {
		t.Errorf("%q %v", body, err)
	}
	header := <-heard
	for key, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "foo.org", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "80", "X-Real-Ip": "127.0.0.1"} {
		if got := header.Get(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for range 4 { // whichever endpoint's turn it is
		c.expect(t, "foo.org", "/b", http.StatusOK, "b")
	}
	c.expect(t, "foo.org", "/nothing", http.StatusNotFound, "no ingress")
	c.expect(t, "bar.org", "/b", http.StatusNotFound, "no ingress")
	c.expect(t, "foo.org", "/empty", http.StatusServiceUnavailable, "no endpoint")
	c.expect(t, "foo.org", "/dead", http.StatusBadGateway, "cannot be reached")

	// A body that is too large, with and without its length told.
	for _, length := range []int64{11, -1} {
		request := get(t, "foo.org", "/sink")
		request.Method, request.Body, request.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader("12345678901")), length
		response, _, err := c.ask(t, "", request)
		if err != nil || response.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a body of length %d: %v %v", length, response, err)
		}
	}

	// Endpoints come.
	if _, err := c.client.DiscoveryV1().EndpointSlices("ns").Create(t.Context(), slice("empty-0", "empty", a.Listener.Addr().String()), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the endpoint is used", func() bool {
		_, body, err := c.ask(t, "", get(t, "foo.org", "/empty"))
		if err == nil && strings.HasPrefix(body, "a ") {
			<-heard
			return true
		}
		return false
	})
	// The addresses of the nodes that are Ready are told.
	eventually(t, "the status has the addresses", func() bool {
		i, err := c.client.NetworkingV1().Ingresses("ns").Get(t.Context(), "i", metav1.GetOptions{})
		return err == nil && len(i.Status.LoadBalancer.Ingress) == 2 &&
			i.Status.LoadBalancer.Ingress[0].IP == "192.0.2.1" && i.Status.LoadBalancer.Ingress[1].IP == "192.0.2.3"
	})
	// The ingress goes.
	if err := c.client.NetworkingV1().Ingresses("ns").Delete(t.Context(), "i", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the route is gone", func() bool {
		response, _, err := c.ask(t, "", get(t, "foo.org", "/b"))
		return err == nil && response.StatusCode == http.StatusNotFound
	})
}

// secret has a certificate for a name.
func secret(t *testing.T, name, host string) *v1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Data: map[string][]byte{
		v1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		v1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}}
}

func TestTLS(t *testing.T) {
	i := ingress("i", "a")
	i.Spec.TLS = []networkingv1.IngressTLS{
		{Hosts: []string{"foo.org"}, SecretName: "foo"}, {Hosts: []string{"*.bar.org"}, SecretName: "bar"}, {Hosts: []string{"later.org"}, SecretName: "later"}}
	unused := secret(t, "unused", "unused.org")
	secure := httptest.NewTLSServer(says("secure"))
	t.Cleanup(secure.Close)
	objects := append(service("a", "", server(t, says("a"))), service("secure", "https", secure)...)
	plain := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	objects = append(objects, service("h2c", "kubernetes.io/h2c", plain)...)
	i.Spec.Rules = []networkingv1.IngressRule{rule("foo.org", "Prefix /secure secure", "Prefix /h2c h2c")}
	c := start(t, hostconfig.Ingress{}, append(objects, i, secret(t, "foo", "foo.org"), secret(t, "bar", "*.bar.org"), unused)...)

	name := func(serverName string) string {
		response, body, err := c.ask(t, serverName, get(t, serverName, "/"))
		if err != nil || body != "a" {
			t.Fatalf("%s: %q %v", serverName, body, err)
		}
		if response.ProtoMajor != 2 {
			t.Errorf("%s is answered over %s", serverName, response.Proto)
		}
		return response.TLS.PeerCertificates[0].DNSNames[0]
	}
	for asked, want := range map[string]string{
		"foo.org": "foo.org", "x.bar.org": "*.bar.org", "y.x.bar.org": "ingress.invalid", "later.org": "ingress.invalid", "unused.org": "ingress.invalid"} {
		if got := name(asked); got != want {
			t.Errorf("%s gets the certificate of %s, want that of %s", asked, got, want)
		}
	}
	for path, want := range map[string]string{"/secure": "secure", "/h2c": "HTTP/2.0"} {
		if _, body, err := c.ask(t, "foo.org", get(t, "foo.org", path)); err != nil || body != want {
			t.Errorf("%s: %q %v, want %q", path, body, err, want)
		}
	}
	// A certificate that comes later is used, and one that is replaced.
	secrets := c.client.CoreV1().Secrets("ns")
	if _, err := secrets.Create(t.Context(), secret(t, "later", "later.org"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the later certificate is used", func() bool { return name("later.org") == "later.org" })
	if _, err := secrets.Update(t.Context(), secret(t, "foo", "renewed.org"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the renewed certificate is used", func() bool { return name("foo.org") == "renewed.org" })
	for _, action := range c.client.Actions() {
		if action.GetResource().Resource == "secrets" && action.GetNamespace() == "" {
			t.Errorf("secrets of all namespaces are read: %v", action)
		}
	}
}

func TestUpgradesAndDrains(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	echo := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-finish
			_, _ = io.WriteString(w, "finished")
			return
		}
		connection, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer connection.Close()
		_, _ = io.WriteString(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		_, _ = io.Copy(connection, buffered)
	})
	c := start(t, hostconfig.Ingress{AccessLog: true}, append(service("a", "kubernetes.io/ws", echo), ingress("i", "a"))...)

	socket, err := net.DialTimeout("tcp", c.http, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_ = socket.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(socket, "GET /socket HTTP/1.1\r\nHost: foo.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(socket)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", response, err)
	}
	fmt.Fprintln(socket, "hello")
	if line, err := reader.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("%q %v", line, err)
	}

	answered := make(chan string, 1)
	go func() {
		_, body, err := c.ask(t, "", get(t, "foo.org", "/slow"))
		answered <- fmt.Sprint(body, err)
	}()
	select {
	case <-begun:
	case <-time.After(patience):
		t.Fatal("the slow request did not arrive")
	}
	c.stop()
	eventually(t, "nothing listens any more", func() bool {
		connection, err := net.DialTimeout("tcp", c.http, time.Second)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	})
	close(finish)
	if got := <-answered; got != "finished<nil>" {
		t.Errorf("the request under way got %q", got)
	}
	select {
	case err := <-c.done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if rest, err := io.ReadAll(reader); len(rest) > 0 {
		t.Errorf("the upgraded connection ends with %q %v", rest, err)
	}
}
