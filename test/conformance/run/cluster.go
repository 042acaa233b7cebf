package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// labName is the lab's that a run boots for itself.
const labName = "conf"

// labsDir is where `clusterctl lab` keeps labs.
const labsDir = "/var/lib/clusterctl-lab"

// cluster is what the suite judges.
type cluster struct {
	inventory, kubeconfig string
	lab                   string // whose network the tests run in; empty: this machine's
}

// bootLab makes a lab and a cluster on it. The cluster is returned with an
// error too when there is something to delete.
func bootLab(ctx context.Context, o options) (*cluster, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a lab needs root on Linux; give the cluster that runs with -inventory and -kubeconfig")
	}
	if _, err := os.Stat(filepath.Join(labsDir, labName)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the lab %s exists already: delete it with clusterctl lab delete --name %s, or give it with -inventory and -kubeconfig", labName, labName)
	}
	c := &cluster{
		inventory:  filepath.Join(o.cache, "lab", "inventory.yaml"),
		kubeconfig: filepath.Join(o.cache, "lab", "kubeconfig"),
		lab:        labName,
	}
	log.Printf("booting a control plane and %d workers", o.workers)
	_, err := shell(ctx, o.root, nil, o.clusterctl, "lab", "create", "--name", labName,
		"--control-planes", "1", "--workers", fmt.Sprint(o.workers), "--inventory", c.inventory)
	if err != nil {
		return c, err
	}
	started := time.Now()
	if _, err := shell(ctx, o.root, nil, o.clusterctl, "up", c.inventory, "--kubeconfig", c.kubeconfig); err != nil {
		return c, err
	}
	if _, err := shell(ctx, o.root, nil, o.clusterctl, "hosts", "exec", c.inventory, "--", loops); err != nil {
		return c, err
	}
	log.Printf("the cluster is up after %s; -inventory %s -kubeconfig %s -lab %s", time.Since(started).Round(time.Second), c.inventory, c.kubeconfig, labName)
	return c, nil
}

// loops gives a host this machine's loop devices, where it may have them: tests of
// block volumes take some.
const loops = `[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
for i in $(seq 0 47); do [ -e /dev/loop$i ] || mknod /dev/loop$i b 7 $i; done; true`

// delete ends the lab, whatever the context of the run is.
func (c *cluster) delete(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := shell(ctx, o.root, nil, o.clusterctl, "lab", "delete", "--name", labName); err != nil {
		return fmt.Errorf("delete the lab: %w", err)
	}
	return nil
}

// load brings the images to every node.
func (c *cluster) load(ctx context.Context, o options, archives []string) error {
	log.Printf("loading %d image archives", len(archives))
	if _, err := shell(ctx, o.root, nil, o.clusterctl, append([]string{"image", "load", c.inventory}, archives...)...); err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	return nil
}

// part is one run of ginkgo.
type part struct {
	name   string
	labels string
	procs  int
	dir    string // its reports
}

const reportFile = "report.json"

// test runs a part of the suite. An error that only says that tests failed is
// not one: the report tells.
func (c *cluster) test(ctx context.Context, o options, p part) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return fmt.Errorf("make report directory: %w", err)
	}
	args := []string{
		"--procs", fmt.Sprint(p.procs), "--timeout", o.timeout.String(), "--label-filter", p.labels,
		"--no-color", "--silence-skips", "--poll-progress-after", "10m",
		"--output-dir", p.dir, "--json-report", reportFile,
	}
	if o.focus != "" {
		args = append(args, "--focus", o.focus)
	}
	if o.skip != "" {
		args = append(args, "--skip", o.skip)
	}
	args = append(args, o.program("e2e.test"), "--",
		"-provider=local", "-num-nodes="+fmt.Sprint(o.workers), "-kubeconfig="+c.kubeconfig, "-kubectl-path="+o.program("kubectl"),
		"-report-dir="+p.dir, "-dump-logs-on-failure=false", "-disable-log-dump=true")
	name := o.program("ginkgo")
	if c.lab != "" {
		enter, err := labNetwork(c.lab)
		if err != nil {
			return err
		}
		name, args = "nsenter", append(append(enter, o.program("ginkgo")), args...)
	}
	out, err := os.Create(filepath.Join(p.dir, "output.log"))
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, out, out
	// The command line alone does not pass a signal on to its processes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 3 * time.Minute // to clean up and write the report
	log.Printf("running the %s part; its output: %s", p.name, out.Name())
	started := time.Now()
	err = cmd.Run()
	log.Printf("the %s part ended after %s", p.name, time.Since(started).Round(time.Second))
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("run ginkgo: %w", err)
	}
	if _, statErr := os.Stat(filepath.Join(p.dir, reportFile)); statErr != nil {
		return fmt.Errorf("ginkgo left no report (%w); see %s", statErr, out.Name())
	}
	return nil
}

// labNetwork is what makes nsenter run a program in the network of a lab's
// first control plane, from where pods can be reached as well as nodes.
func labNetwork(lab string) ([]string, error) {
	content, err := os.ReadFile(filepath.Join(labsDir, lab, "hosts", "cp1", "init.json"))
	if err != nil {
		return nil, fmt.Errorf("find the lab's control plane: %w", err)
	}
	var init struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(content, &init); err != nil {
		return nil, fmt.Errorf("read the lab's control plane: %w", err)
	}
	return []string{"--net=" + fmt.Sprintf("/proc/%d/ns/net", init.PID), "--"}, nil
}
