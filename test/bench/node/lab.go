package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	labName = "benchnode"
	labsDir = "/var/lib/clusterctl-lab" // where `clusterctl lab` keeps labs
	worker  = "worker1"
)

// lab is a control plane and the worker that is measured.
type lab struct {
	clusterctl string
	dir        string // for files of this run
	init       int    // process 1 of the worker, as this machine numbers it
	server     string // of the API, without the worker's load balancer
	client     *kubernetes.Clientset
}

// bootLab makes the lab and its cluster. The lab is there to be deleted with an
// error too.
func bootLab(ctx context.Context, o options) (*lab, error) {
	l := &lab{clusterctl: o.clusterctl}
	var err error
	if l.dir, err = os.MkdirTemp("", "bench-node-"); err != nil {
		return l, err
	}
	inventory, kubeconfig := filepath.Join(l.dir, "inventory.yaml"), filepath.Join(l.dir, "kubeconfig")
	say("booting a lab")
	if _, err := shell(ctx, l.clusterctl, "lab", "create", "--name", labName,
		"--control-planes", "1", "--workers", "1", "--inventory", inventory); err != nil {
		return l, err
	}
	if _, err := shell(ctx, l.clusterctl, "up", inventory, "--kubeconfig", kubeconfig); err != nil {
		return l, err
	}
	content, err := os.ReadFile(filepath.Join(labsDir, labName, "hosts", worker, "init.json"))
	if err != nil {
		return l, fmt.Errorf("find the worker: %w", err)
	}
	var init struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(content, &init); err != nil {
		return l, fmt.Errorf("read the worker's description: %w", err)
	}
	l.init = init.PID
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return l, fmt.Errorf("read kubeconfig: %w", err)
	}
	l.server, config.QPS = config.Host, -1
	if l.client, err = kubernetes.NewForConfig(config); err != nil {
		return l, fmt.Errorf("make client: %w", err)
	}
	return l, nil
}

// delete ends the lab, whatever became of the run.
func (l *lab) delete() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := shell(ctx, l.clusterctl, "lab", "delete", "--name", labName); err != nil {
		return fmt.Errorf("delete the lab: %w", err)
	}
	return os.RemoveAll(l.dir)
}

// clear has the worker to ourselves: nobody else's pods come, and those that are
// there go.
func (l *lab) clear(ctx context.Context) error {
	if _, err := l.client.CoreV1().Nodes().Patch(ctx, worker, types.StrategicMergePatchType,
		[]byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("cordon the worker: %w", err)
	}
	here := metav1.ListOptions{FieldSelector: "spec.nodeName=" + worker}
	pods, err := l.client.CoreV1().Pods("").List(ctx, here)
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for _, pod := range pods.Items {
		if err := l.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete pod %s: %w", pod.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return poll(ctx, "the worker to be empty", func() (bool, error) {
		pods, err := l.client.CoreV1().Pods("").List(ctx, here)
		return err == nil && len(pods.Items) == 0, err
	})
}

// on runs a program on the worker.
func (l *lab) on(ctx context.Context, args ...string) (string, error) {
	return shell(ctx, "nsenter", append([]string{"-t", fmt.Sprint(l.init), "-a", "--"}, args...)...)
}

// cpu is what everything on the worker has used so far, runtime and pods too.
func (l *lab) cpu() (time.Duration, error) {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", l.init))
	if err != nil {
		return 0, fmt.Errorf("find the worker's control group: %w", err)
	}
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, dir, _ := strings.Cut(rest, ":")
		dir = strings.TrimSuffix(dir, "/init.scope") // systemd gives process 1 a group of its own
		if slices.Contains(strings.Split(controllers, ","), "cpuacct") {
			usage, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpuacct", dir, "cpuacct.usage"))
			if err != nil {
				return 0, fmt.Errorf("read the worker's CPU time: %w", err)
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(usage)), 10, 64)
			return time.Duration(n), err
		}
		stat, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, "cpu.stat"))
		if err == nil && controllers == "" {
			var microseconds int64
			_, err := fmt.Sscanf(string(stat), "usage_usec %d", &microseconds)
			return time.Duration(microseconds) * time.Microsecond, err
		}
	}
	return 0, errors.New("the worker's control groups count no CPU time")
}

// path is where this machine finds a file of the worker.
func (l *lab) path(file string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", l.init), file)
}

// poll asks until the answer is yes; what goes wrong is told with the time-out.
func poll(ctx context.Context, what string, ask func() (bool, error)) error {
	var last error
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %v)", what, ctx.Err(), last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// shell runs a program to its end and returns what it printed.
func shell(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %q: %w: %s%s", name, args, err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String(), nil
}
