package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	agentstreams "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"clusterctl/hostconfig"
)

// agent stands in for a node's agent: it answers for logs, and runs a command
// that repeats its input in capitals.
type agent struct{ asked chan string }

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked <- r.URL.RequestURI()
	switch {
	case strings.HasPrefix(r.URL.Path, "/containerLogs/"):
		fmt.Fprintln(w, "a line")
	case strings.HasPrefix(r.URL.Path, "/exec/"):
		options, err := agentstreams.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		agentstreams.ServeExec(w, r, a, "", "", "", r.URL.Query()["command"], options, time.Minute, 10*time.Second, agentstreams.SupportedStreamingProtocols)
	default:
		http.NotFound(w, r)
	}
}

func (a *agent) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan agentstreams.TerminalSize, _ time.Duration) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	_, err = out.Write(bytes.ToUpper(text))
	return err
}

// startAgent serves an agent on the node and puts a pod on it.
func startAgent(t *testing.T, c *Cluster, ns, node, pod string) *agent {
	t.Helper()
	a := &agent{asked: make(chan string, 10)}
	serveAgent(t, c, node, a)
	must(c.Client.CoreV1().Pods(ns).Create(t.Context(), simplePod(pod), metav1.CreateOptions{}))(t)
	if err := bind(t.Context(), c, ns, pod, node); err != nil {
		t.Fatal(err)
	}
	return a
}

// serveAgent makes a node whose agent answers as handler does, until the test
// ends.
func serveAgent(t *testing.T, c *Cluster, node string, handler http.Handler) {
	t.Helper()
	dir := hostconfig.PKI(c.Config.PKIDir)
	pair := must(tls.LoadX509KeyPair(dir.Cert(hostconfig.PairNodeServing), dir.Key(hostconfig.PairNodeServing)))(t)
	listener := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))(t)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })

	must(c.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(listener.Addr().(*net.TCPAddr).Port)}},
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = c.Client.CoreV1().Nodes().Delete(context.Background(), node, metav1.DeleteOptions{})
	})
}

func TestLogsAndExecReachTheNodeAgent(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	pods := c.Client.CoreV1().Pods(ns)
	a := startAgent(t, c, ns, "stream-node", "p")

	lines := int64(3)
	log := must(pods.GetLogs("p", &corev1.PodLogOptions{TailLines: &lines, Follow: true}).DoRaw(ctx))(t)
	if string(log) != "a line\n" {
		t.Errorf("log %q", log)
	}
	if got, want := <-a.asked, "/containerLogs/"+ns+"/p/c?follow=true&stream=All&tailLines=3"; got != want {
		t.Errorf("agent was asked for %s, want %s", got, want)
	}
	if _, err := pods.GetLogs("p", &corev1.PodLogOptions{Container: "z"}).Stream(ctx); err == nil || !strings.Contains(err.Error(), "container z is not valid for pod p") {
		t.Errorf("log of no container: %v", err)
	}

	request := c.Client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"shout", "it"}, Stdin: true, Stdout: true}, scheme.ParameterCodec)
	spdy := must(remotecommand.NewSPDYExecutor(c.Admin, "POST", request.URL()))(t)
	websocket := must(remotecommand.NewWebSocketExecutor(c.Admin, "GET", request.URL().String()))(t)
	for name, executor := range map[string]remotecommand.Executor{"SPDY": spdy, "WebSocket": websocket} {
		var out bytes.Buffer
		if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out}); err != nil {
			t.Errorf("exec over %s: %v", name, err)
			continue
		}
		if out.String() != "HELLO" {
			t.Errorf("exec over %s answered %q", name, out.String())
		}
		if got, want := <-a.asked, "/exec/"+ns+"/p/c?command=shout&command=it&input=1&output=1"; got != want {
			t.Errorf("agent was asked for %s, want %s", got, want)
		}
	}

	// A WebSocket is a GET, but to get is not enough to run a command.
	allow := func(verbs ...string) {
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "exec-"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods/exec"}, Verbs: verbs}}}
		role = must(c.Client.RbacV1().Roles(ns).Create(ctx, role, metav1.CreateOptions{}))(t)
		must(c.Client.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "exec-"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "reader"}},
		}, metav1.CreateOptions{}))(t)
	}
	allow("get")
	reader := must(c.Certificate("reader"))(t)
	executor := must(remotecommand.NewWebSocketExecutor(reader, "GET", request.URL().String()))(t)
	run := func() error {
		return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("x"), Stdout: io.Discard})
	}
	eventually(t, "the right to get is known", func(ctx context.Context) (bool, error) {
		review, err := clients(t, reader).AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "get", Resource: "pods", Subresource: "exec", Name: "p"}},
		}, metav1.CreateOptions{})
		return err == nil && review.Status.Allowed, err
	})
	if err := run(); err == nil {
		t.Error("a user with the right to get ran a command")
	}
	allow("create")
	eventually(t, "a user with both rights runs a command", func(context.Context) (bool, error) {
		err := run()
		return err == nil, err
	})
}
