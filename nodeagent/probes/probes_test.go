package probes

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	criclient "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"
)

func TestCheck(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		if r.URL.Path != "/ok" || r.URL.RawQuery != "a=b" || r.Host != "named" {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer web.Close()
	at, _ := url.Parse(web.URL)
	port, _ := strconv.Atoi(at.Port())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	healthy := grpc.NewServer()
	checks := health.NewServer()
	checks.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(healthy, checks)
	go func() { _ = healthy.Serve(listener) }()
	defer healthy.Stop()
	grpcPort := int32(listener.Addr().(*net.TCPAddr).Port)
	sick, none := "sick", "none"

	tries := 0
	exec := func(_ context.Context, _ string, command []string, _ time.Duration) ([]byte, error) {
		if command[0] == "true" {
			return nil, nil
		}
		switch tries++; command[0] {
		case "false":
			return []byte("said no"), utilexec.CodeExitError{Code: 1, Err: net.ErrClosed}
		case "slow":
			return nil, fmt.Errorf("%w: it was slow", criclient.ErrCommandTimedOut)
		case "third time lucky":
			if tries == 3 {
				return nil, nil
			}
		}
		return nil, net.ErrClosed
	}
	headers := []v1.HTTPHeader{{Name: "Host", Value: "named"}}
	cases := []struct {
		name    string
		handler v1.ProbeHandler
		is      outcome
		message string
	}{
		{"http", v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/ok?a=b", Port: intstr.FromString("web"), HTTPHeaders: headers}}, success, ""},
		{"http refused", v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt(port)}}, failure, "HTTP probe failed with statuscode: 418"},
		{"http redirected here", v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/?to=" + url.QueryEscape("/teapot"), Port: intstr.FromInt(port)}}, failure, "HTTP probe failed with statuscode: 418"},
		{"http redirected elsewhere", v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/?to=http://0.0.0.0/", Port: intstr.FromInt(port)}}, warning,
			"Probe terminated redirects, Response body: <a href=\"http://0.0.0.0/\">Found</a>.\n\n"},
		{"tcp", v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(port)}}, success, ""},
		{"tcp unknown port", v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("none")}}, failure, "error: invalid port none"},
		{"exec", v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}, success, ""},
		{"exec fails", v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"false"}}}, failure, "said no"},
		{"exec times out", v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"slow"}}}, failure, "command timed out: it was slow"},
		{"exec does not run", v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"nothing"}}}, failure, "error: use of closed network connection"},
		{"exec runs in the end", v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"third time lucky"}}}, success, ""},
		{"grpc", v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: grpcPort}}, success, ""},
		{"grpc sick", v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: grpcPort, Service: &sick}}, failure, `service unhealthy (responded with "NOT_SERVING")`},
		{"grpc without health", v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: grpcPort, Service: &none}}, failure, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
	}
	target := Target{
		Pod:       &v1.Pod{},
		Container: &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}},
		PodIP:     "127.0.0.1",
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tries = 0
			is, message, err := check(t.Context(), exec, target, &v1.Probe{ProbeHandler: c.handler, TimeoutSeconds: 30})
			if err != nil {
				message = "error: " + err.Error()
			}
			if is != c.is || message != c.message {
				t.Errorf("got %v %q, want %v %q", is, message, c.is, c.message)
			}
		})
	}
}

func TestManagerGatesOnStartupAndReportsFailure(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	exec := func(context.Context, string, []string, time.Duration) ([]byte, error) {
		if healthy.Load() {
			return nil, nil
		}
		return nil, utilexec.CodeExitError{Code: 1, Err: net.ErrClosed}
	}
	changed := make(chan types.UID, 10)
	m := New(t.Context(), exec, func(uid types.UID) { changed <- uid }, func(*v1.Pod, *v1.Container, string, string) {})
	probe := func() *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{}}, PeriodSeconds: 1, FailureThreshold: 1}
	}
	target := Target{
		Pod:         &v1.Pod{},
		Container:   &v1.Container{Name: "c", StartupProbe: probe(), ReadinessProbe: probe(), LivenessProbe: probe()},
		ContainerID: "id",
	}
	target.Pod.Name, target.Pod.Namespace, target.Pod.UID = "p", "n", "u"
	m.Watch(target, time.Now(), nil)
	if r := m.Result("id"); r.Started || r.Ready {
		t.Errorf("before any probe: %+v", r)
	}
	until := func(what string, holds func(Result) bool) {
		t.Helper()
		deadline := time.After(time.Minute)
		for !holds(m.Result("id")) {
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("never %s: %+v", what, m.Result("id"))
			}
		}
	}
	until("ready", func(r Result) bool { return r.Started && r.Ready && r.Failed == "" })
	healthy.Store(false)
	until("failed", func(r Result) bool { return r.Failed == Liveness && !r.Ready })
	for result, most := range map[string]float64{"successful": 1, "failed": 1} {
		labels := prometheus.Labels{"probe_type": string(Startup), "result": result, "container": "c", "pod": "p", "namespace": "n", "pod_uid": "u"}
		if result == "failed" {
			labels["probe_type"] = string(Liveness)
		}
		if n := testutil.ToFloat64(m.attempts.With(labels)); n != most {
			t.Errorf("%v: %v attempts", labels, n)
		}
	}
	m.Stop("id")
	if r := m.Result("id"); r != (Result{}) {
		t.Errorf("after stop: %+v", r)
	}
	if n := testutil.CollectAndCount(m); n != 0 {
		t.Errorf("%d series are left of a container that is not probed", n)
	}
}

// TestHooksTakeAnyAnswer: and one that speaks no TLS is told no secret.
func TestHooksTakeAnyAnswer(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+" "+r.Header.Get("Authorization")+" "+r.UserAgent())
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	target := Target{Pod: &v1.Pod{}, Container: &v1.Container{}, PodIP: "127.0.0.1"}
	action := &v1.HTTPGetAction{Path: "/a", Port: intstr.FromInt(port), HTTPHeaders: []v1.HTTPHeader{{Name: "Authorization", Value: "secret"}}}
	if plain, err := HTTPGet(t.Context(), target, action); err != nil || plain != "" {
		t.Errorf("a server that refuses: %q, %v", plain, err)
	}
	action.Path, action.Scheme = "/b", v1.URISchemeHTTPS
	if plain, err := HTTPGet(t.Context(), target, action); err != nil || plain != fmt.Sprintf("127.0.0.1:%d", port) {
		t.Errorf("a server without TLS: %q, %v", plain, err)
	}
	server.Close()
	if _, err := HTTPGet(t.Context(), target, action); err == nil {
		t.Error("a server that is gone: no error")
	}
	if want := []string{"/a secret kube-lifecycle/1.36", "/b  kube-lifecycle/1.36"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

// TestPodsThatEndAreOnlyAskedForReadiness: nobody would have their containers
// start anew.
func TestPodsThatEndAreOnlyAskedForReadiness(t *testing.T) {
	var alive, ready atomic.Int64
	exec := func(ctx context.Context, _ string, command []string, _ time.Duration) ([]byte, error) {
		switch {
		case ctx.Err() != nil: // called off before it began
		case command[0] == "alive":
			alive.Add(1)
		default:
			ready.Add(1)
		}
		return nil, nil
	}
	m := New(t.Context(), exec, func(types.UID) {}, func(*v1.Pod, *v1.Container, string, string) {})
	probe := func(what string) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{what}}}, PeriodSeconds: 1}
	}
	target := Target{Pod: &v1.Pod{}, Container: &v1.Container{Name: "c", ReadinessProbe: probe("ready"), LivenessProbe: probe("alive")}, ContainerID: "id"}
	grows := func(n *atomic.Int64) {
		t.Helper()
		for before, deadline := n.Load(), time.Now().Add(time.Minute); n.Load() < before+2; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not probed in a minute")
			}
		}
	}
	m.Watch(target, time.Now(), nil)
	grows(&alive)
	target.Ending = true
	m.Watch(target, time.Now(), nil)
	grows(&ready) // an attempt that was under way has ended
	settled := alive.Load()
	grows(&ready)
	if n := alive.Load(); n != settled {
		t.Errorf("asked %d times whether it lives though its pod ends", n-settled)
	}
	target.ContainerID = "late"
	m.Watch(target, time.Now(), nil)
	grows(&ready)
	if n := alive.Load(); n != settled {
		t.Errorf("a container found late was asked %d times", n-settled)
	}
}
