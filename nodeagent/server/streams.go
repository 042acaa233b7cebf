package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/runtime"
)

// stream serves exec and attach: the runtime prepares a place to connect to,
// and the client's connection is handed on there as it is, whatever protocol
// it upgrades to.
func (s *Server) stream(verb string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, actual, ok := s.find(w, r)
		if !ok {
			return
		}
		run := actual.Latest(r.PathValue("container"))
		if run == nil || run.State != runtime.Running {
			http.Error(w, fmt.Sprintf("container not found (%q)", r.PathValue("container")), http.StatusNotFound)
			return
		}
		query := r.URL.Query()
		stdin, stdout, stderr, tty := boolean(query, "input"), boolean(query, "output"), boolean(query, "error"), boolean(query, "tty")
		if tty {
			stderr = false // there is one stream only
		}
		var target string
		var err error
		if verb == "exec" {
			var answer *criv1.ExecResponse
			answer, err = s.Runtime.Exec(r.Context(), &criv1.ExecRequest{
				ContainerId: run.ID, Cmd: query["command"], Stdin: stdin, Stdout: stdout, Stderr: stderr, Tty: tty})
			target = answer.GetUrl()
		} else {
			var answer *criv1.AttachResponse
			answer, err = s.Runtime.Attach(r.Context(), &criv1.AttachRequest{
				ContainerId: run.ID, Stdin: stdin, Stdout: stdout, Stderr: stderr, Tty: tty})
			target = answer.GetUrl()
		}
		s.handOn(w, r, target, err)
	}
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	_, actual, ok := s.find(w, r)
	if !ok {
		return
	}
	sandbox := actual.Sandbox()
	if sandbox == nil || !sandbox.Ready {
		http.Error(w, fmt.Sprintf("sandbox of pod %q is not running", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	var ports []int32
	for _, text := range r.URL.Query()["port"] {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			http.Error(w, fmt.Sprintf("port %q is not a port", text), http.StatusBadRequest)
			return
		}
		ports = append(ports, int32(port))
	}
	answer, err := s.Runtime.PortForward(r.Context(), &criv1.PortForwardRequest{PodSandboxId: sandbox.ID, Port: ports})
	s.handOn(w, r, answer.GetUrl(), err)
}

// find is the pod that the path names; if there is none the answer is given.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (*v1.Pod, *runtime.Pod, bool) {
	pod := s.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if uid := r.PathValue("uid"); pod == nil || uid != "" && uid != string(pod.UID) {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return nil, nil, false
	}
	actual, err := s.Runtime.Pod(r.Context(), pod.UID)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil, nil, false
	}
	return pod, actual, true
}

func (s *Server) handOn(w http.ResponseWriter, r *http.Request, target string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	location, err := url.Parse(target)
	if err != nil {
		http.Error(w, fmt.Sprintf("the runtime's streaming address: %v", err), http.StatusInternalServerError)
		return
	}
	proxy.NewUpgradeAwareHandler(location, nil, false, true, refusal{s}).ServeHTTP(w, r)
}

// refusal answers when the runtime's streaming server does not.
type refusal struct{ s *Server }

func (f refusal) Error(w http.ResponseWriter, r *http.Request, err error) {
	f.s.Logger.Warn("cannot hand a stream on to the runtime", "path", r.URL.Path, "error", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
