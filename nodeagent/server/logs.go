package server

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	crilogs "k8s.io/cri-client/pkg/logs"

	"clusterctl/nodeagent/runtime"
)

// logs sends the log of a container's run.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	options, err := logOptions(query)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	pod := s.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if pod == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	actual, err := s.Runtime.Pod(r.Context(), pod.UID)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	run, err := pickRun(pod, actual, r.PathValue("container"), boolean(query, "previous"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := flushing{w, http.NewResponseController(w)}
	var stdout, stderr io.Writer = out, out
	switch query.Get("stream") {
	case v1.LogStreamStdout:
		stderr = io.Discard
	case v1.LogStreamStderr:
		stdout = io.Discard
	}
	w.Header().Set("Transfer-Encoding", "chunked")
	w.WriteHeader(http.StatusOK)
	if options.Follow {
		_ = out.control.Flush() // headers at once, lines when they come
	}
	if err := crilogs.ReadLogs(r.Context(), run.LogPath, run.ID, options, s.Runtime.RuntimeService, stdout, stderr); err != nil && r.Context().Err() == nil {
		fmt.Fprintf(w, "%v\n", err)
	}
}

// pickRun chooses the run whose log is asked for: the running one, or the
// last that ended; with previous, the one before.
func pickRun(pod *v1.Pod, actual *runtime.Pod, name string, previous bool) (*runtime.Container, error) {
	var runs []*runtime.Container
	for _, run := range actual.Runs(name) {
		if run.State != runtime.Created {
			runs = append(runs, run)
		}
	}
	waiting := ""
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name && list[i].State.Waiting != nil {
				waiting = list[i].State.Waiting.Reason
			}
		}
	}
	if previous {
		at := 1
		if len(runs) > 0 && runs[0].State == runtime.Exited && waiting != "" {
			at = 0 // it waits to be started again: what ended last is the previous run
		}
		if at >= len(runs) {
			return nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		return runs[at], nil
	}
	if len(runs) == 0 {
		if waiting == "" {
			return nil, fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
		}
		return nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, waiting)
	}
	return runs[0], nil
}

func logOptions(query url.Values) (*crilogs.LogOptions, error) {
	options := &crilogs.LogOptions{Follow: boolean(query, "follow"), Timestamp: boolean(query, "timestamps")}
	number := func(name string, least int64) (*int64, error) {
		text := query.Get(name)
		if text == "" || name == "tailLines" && text == "all" {
			return nil, nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < least {
			return nil, fmt.Errorf("%s must be a number of at least %d, got %q", name, least, text)
		}
		return &n, nil
	}
	var err error
	if options.TailLines, err = number("tailLines", 0); err != nil {
		return nil, err
	}
	if options.LimitBytes, err = number("limitBytes", 1); err != nil {
		return nil, err
	}
	seconds, err := number("sinceSeconds", 1)
	if err != nil {
		return nil, err
	}
	if seconds != nil {
		options.Since = time.Now().Add(-time.Duration(*seconds) * time.Second)
	}
	if text := query.Get("sinceTime"); text != "" {
		if options.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return nil, fmt.Errorf("sinceTime: %w", err)
		}
	}
	return options, nil
}

func boolean(query url.Values, name string) bool {
	switch query.Get(name) {
	case "true", "1":
		return true
	}
	return false
}

// flushing sends every write on its way at once.
type flushing struct {
	io.Writer
	control *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		_ = f.control.Flush() // a failure shows at the next write
	}
	return n, err
}

// hostLogs serves files of the host's own logs, and nothing that links lead to
// outside of them.
func (s *Server) hostLogs(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot(s.LogDir)
	if err != nil {
		http.Error(w, fmt.Sprintf("open the host's logs: %v", err), http.StatusInternalServerError)
		return
	}
	defer root.Close()
	http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
}
