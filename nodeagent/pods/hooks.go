package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/probes"
	"clusterctl/nodeagent/runtime"
)

// hook runs a lifecycle handler of container c and waits for it.
func (a *Agent) hook(ctx context.Context, pod *v1.Pod, c *v1.Container, h *v1.LifecycleHandler, id string, ips []string) error {
	switch {
	case h.Exec != nil:
		_, err := a.execSync(ctx, id, h.Exec.Command, 0)
		return err
	case h.HTTPGet != nil:
		target := probes.Target{Pod: pod, Container: c, ContainerID: id}
		if len(ips) > 0 {
			target.PodIP = ips[0]
		}
		plain, err := probes.HTTPGet(ctx, target, h.HTTPGet)
		if err == nil && plain != "" {
			a.event(pod, "", v1.EventTypeWarning, "LifecycleHTTPFallback",
				fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", plain))
		}
		return err
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return errors.New("the lifecycle hook has no handler that is supported")
}

// execSync runs a command in a container; a timeout of 0 is ctx's.
func (a *Agent) execSync(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, error) {
	stdout, stderr, err := a.Config.Runtime.ExecSync(ctx, id, command, timeout)
	return append(stdout, stderr...), err
}

// How much of a termination message is shown, and how much of the log in its
// place.
const (
	messageBytes    = 4096
	messageLogBytes = 2048
	messageLogLines = 80
)

// readMessages fills in the termination messages of runs that have ended.
// They are remembered: the files go before the pod does.
func (w *worker) readMessages(actual *runtime.Pod) {
	for i := range actual.Containers {
		run := &actual.Containers[i]
		if run.State != runtime.Exited {
			continue
		}
		message, ok := w.messages[run.ID]
		if !ok {
			message = w.message(run)
			w.messages[run.ID] = message
		}
		if message != "" && message != run.Message { // what others read has it
			run.Message = message
		}
	}
}

func (w *worker) message(run *runtime.Container) string {
	if run.Annotations[runtime.AnnotationTerminationMessagePath] != "" {
		if text, err := readEnd(w.agent.terminationFile(w.pod, run.Name, run.Attempt), messageBytes, true); err == nil && text != "" {
			return text
		}
	}
	policy := v1.TerminationMessagePolicy(run.Annotations[runtime.AnnotationTerminationPolicy])
	if policy == v1.TerminationMessageFallbackToLogsOnError && run.ExitCode != 0 && run.LogPath != "" {
		text, err := readEnd(run.LogPath, 4*messageLogBytes, false)
		if err != nil {
			return fmt.Sprintf("Error on reading termination message from logs: %v", err)
		}
		return plainLog(text)
	}
	return ""
}

// readEnd reads the first (fromStart) or last limit bytes of a file.
func readEnd(name string, limit int64, fromStart bool) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !fromStart && info.Size() > limit {
		if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
			return "", err
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	return string(raw), err
}

// plainLog takes the time and stream off the last lines of a CRI log, and the
// newline off those that the runtime marked as parts: the container wrote none.
func plainLog(text string) string {
	lines := strings.SplitAfter(text, "\n")
	lines = lines[max(0, len(lines)-messageLogLines-1):]
	var b strings.Builder
	for _, line := range lines {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			if part, _, _ := strings.Cut(fields[2], ":"); part == "P" {
				fields[3] = strings.TrimSuffix(fields[3], "\n")
			}
			b.WriteString(fields[3])
		}
	}
	out := b.String()
	return out[max(0, len(out)-messageLogBytes):]
}
