package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/stats"
	"clusterctl/nodeagent/volumes"
)

// Pods are the pods of this host.
type Pods interface {
	Pod(namespace, name string) *v1.Pod
	List() []*v1.Pod
}

// Volumes are the volumes on this host's own disk.
type Volumes interface {
	// RemoveLocal removes a directory of the local-path provisioner; it fails
	// with volumes.ErrInUse while a pod has it mounted.
	RemoveLocal(name string) error
}

// Config is what the server serves, and to whom.
type Config struct {
	Listen         string // ":10250"
	ClientCA       string // file: clients with certificates of this CA are known by them
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	NodeName       string
	Client         kubernetes.Interface // for TokenReviews and SubjectAccessReviews
	Pods           Pods
	Runtime        *runtime.Runtime
	Stats          *stats.Source
	Volumes        Volumes
	LogDir         string // of the host: "/var/log"
	CheckpointDir  string // of containers
	Configuration  any    // what /configz shows: the agent's settings in the shape of the kubelet's
	Logger         *slog.Logger
	// Metrics are served by path: "/metrics", "/metrics/cadvisor", …
	Metrics map[string]prometheus.Gatherer
	// MoreMetrics, if set, writes what /metrics has beside those.
	MoreMetrics func(io.Writer) error
}

// Server is the agent's HTTPS server.
type Server struct {
	Config
	auth *auth
}

// Run serves until ctx ends.
func Run(ctx context.Context, config Config) error {
	pem, err := os.ReadFile(config.ClientCA)
	if err != nil {
		return fmt.Errorf("read client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("read client CA: no certificate in %s", config.ClientCA)
	}
	s := &Server{Config: config, auth: newAuth(config.Client, config.NodeName)}
	server := &http.Server{
		Handler:           s.auth.guard(s.routes()),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       90 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // handshakes that anyone can spoil
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: config.GetCertificate,
			ClientAuth:     tls.VerifyClientCertIfGiven,
			ClientCAs:      pool,
			NextProtos:     []string{"http/1.1"}, // upgrades need it
		},
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("GET /configz", s.configz)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /metrics/resource", s.resourceMetrics)
	for path, gatherer := range s.Metrics {
		mux.HandleFunc("GET "+path, s.metrics(path, gatherer))
	}
	mux.HandleFunc("GET /logs/", s.hostLogs)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, verb := range []string{"exec", "attach"} {
		mux.HandleFunc("/"+verb+"/{namespace}/{pod}/{container}", s.stream(verb))
		mux.HandleFunc("/"+verb+"/{namespace}/{pod}/{uid}/{container}", s.stream(verb))
	}
	mux.HandleFunc("GET /runningpods/", s.runningPods)
	mux.HandleFunc("POST /checkpoint/{namespace}/{pod}/{container}", s.checkpoint)
	mux.HandleFunc("DELETE /localvolumes/{name}", s.removeLocalVolume)
	mux.HandleFunc("/portForward/{namespace}/{pod}", s.portForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", s.portForward)
	return mux
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"kubeletconfig": s.Configuration})
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []v1.Pod{}}
	for _, pod := range s.Pods.List() {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, list)
}

// removeLocalVolume serves the local-path provisioner in the control plane.
func (s *Server) removeLocalVolume(w http.ResponseWriter, r *http.Request) {
	err := s.Volumes.RemoveLocal(r.PathValue("name"))
	switch {
	case errors.Is(err, volumes.ErrInUse):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	measure := s.Stats.Summary
	if only, _ := strconv.ParseBool(r.FormValue("only_cpu_and_memory")); only {
		measure = s.Stats.CPUAndMemory
	}
	summary, err := measure(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, summary)
}

func (s *Server) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	summary, err := s.Stats.CPUAndMemory(r.Context())
	if err != nil {
		s.Logger.Warn("cannot measure pods", "error", err)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = stats.WriteMetrics(w, summary) // the client has gone: nobody to tell
}

// metrics serves what can be gathered; what cannot be is left out and logged.
func (s *Server) metrics(path string, gatherer prometheus.Gatherer) http.HandlerFunc {
	handler := promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(s.Logger.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, DisableCompression: true})
	return func(w http.ResponseWriter, r *http.Request) {
		more := path == "/metrics" && s.MoreMetrics != nil
		if more {
			r.Header.Del("Accept") // what is added is text, and nothing else can be added to
		}
		handler.ServeHTTP(w, r)
		if more {
			_ = s.MoreMetrics(w) // the client has gone: nobody to tell
		}
	}
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the client has gone: nobody to tell
}
