package pods

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// When the log of a container is rotated, and how many files stay.
const (
	LogCheck    = 10 * time.Second
	LogMaxBytes = 10 << 20
	LogMaxFiles = 5
)

// podsWithLogs are the pods that have a directory of logs in dir.
func podsWithLogs(dir string) map[types.UID]types.NamespacedName {
	found := map[types.UID]types.NamespacedName{}
	entries, _ := os.ReadDir(dir) // made with the first pod
	for _, e := range entries {
		if parts := strings.Split(e.Name(), "_"); len(parts) == 3 && e.IsDir() {
			found[types.UID(parts[2])] = types.NamespacedName{Namespace: parts[0], Name: parts[1]}
		}
	}
	return found
}

// firstAttempt is what the runs of a container that the runtime knows none of
// begin with: they go on after those that have left logs in dir. A runtime that
// could not read what it had may find it again, and two runs of one number then
// keep it from starting.
func firstAttempt(dir string) uint32 {
	first := uint64(0)
	entries, _ := os.ReadDir(dir) // made with the first run
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), ".log")
		if n, err := strconv.ParseUint(number, 10, 32); err == nil {
			first = max(first, n+1)
		}
	}
	return uint32(first)
}

// rotateLogs keeps the logs of running containers short until ctx ends.
func (a *Agent) rotateLogs(ctx context.Context) {
	ticker := time.NewTicker(LogCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, name := range longLogs(a.LogDir) {
			if err := a.rotate(ctx, name); err != nil {
				a.Logger.Warn("cannot rotate log", "file", name, "error", err)
			}
		}
	}
}

// longLogs are the current logs that have grown beyond the limit.
func longLogs(dir string) []string {
	var long []string
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*.log"))
	for _, name := range files {
		if info, err := os.Stat(name); err == nil && info.Size() > LogMaxBytes {
			long = append(long, name)
		}
	}
	return long
}

// rotate puts the log aside and has the runtime open a new one.
func (a *Agent) rotate(ctx context.Context, name string) error {
	id, err := a.runningWithLog(ctx, name)
	if err != nil || id == "" {
		return err // an ended container's log grows no more
	}
	aside := name + "." + time.Now().UTC().Format("20060102-150405")
	if err := os.Rename(name, aside); err != nil {
		return err
	}
	if err := a.Config.Runtime.ReopenContainerLog(ctx, id); err != nil {
		_ = os.Rename(aside, name) // the runtime writes on in the old file
		return err
	}
	rotated, err := filepath.Glob(name + ".*")
	if err != nil {
		return err
	}
	slices.Sort(rotated)
	for len(rotated) > LogMaxFiles-1 {
		if err := os.Remove(rotated[0]); err != nil {
			return err
		}
		rotated = rotated[1:]
	}
	return nil
}

func (a *Agent) runningWithLog(ctx context.Context, name string) (string, error) {
	running, err := a.Config.Runtime.ListContainers(ctx, &criv1.ContainerFilter{
		State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return "", err
	}
	for _, c := range running {
		status, err := a.Config.Runtime.ContainerStatus(ctx, c.Id, false)
		if err == nil && status.Status.GetLogPath() == name {
			return c.Id, nil
		}
	}
	return "", nil
}
