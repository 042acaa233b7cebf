package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"clusterctl/hostconfig"
	"clusterctl/test/bench/usage"
)

// The contestants.
const (
	ours  = "ours"
	stock = "stock"
)

// agent is a program that runs the worker's pods.
type agent struct {
	name  string
	unit  string // of systemd, on the worker
	start func(ctx context.Context) error
	stop  func(ctx context.Context) error
}

func ourAgent(l *lab) *agent {
	systemctl := func(verb string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := l.on(ctx, "systemctl", verb, hostconfig.UnitNodeAgent)
			return err
		}
	}
	// It runs already; a fresh process is what is measured.
	return &agent{name: ours, unit: hostconfig.UnitNodeAgent, start: systemctl("restart"), stop: systemctl("stop")}
}

const (
	stockUnit = "stock-kubelet"
	stockDir  = hostconfig.VarDir + "/stock-kubelet"
)

// stockAgent is the kubelet with its defaults, except for what the worker has
// otherwise: paths, cgroup v1, and a disk that is shared with the machine.
func stockAgent(l *lab, program string) *agent {
	pki := hostconfig.PKI(hostconfig.PKIDir)
	config := fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi}
maxPods: 110
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
containerRuntimeEndpoint: unix://%s
tlsCertFile: %s
tlsPrivateKeyFile: %s
`, pki.ClusterCA(), hostconfig.CRISock, pki.Cert(hostconfig.PairNodeServing), pki.Key(hostconfig.PairNodeServing))
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: %q, certificate-authority: %s}}]
users: [{name: node, user: {client-certificate: %s, client-key: %s}}]
contexts: [{name: lab, context: {cluster: lab, user: node}}]
current-context: lab
`, l.server, pki.ClusterCA(), pki.Cert(hostconfig.PairNode), pki.Key(hostconfig.PairNode))
	file := func(name string) string { return filepath.Join(stockDir, name) }
	return &agent{
		name: stock, unit: stockUnit,
		start: func(ctx context.Context) error {
			if err := os.MkdirAll(l.path(stockDir), 0o700); err != nil {
				return fmt.Errorf("make the kubelet's directory: %w", err)
			}
			if err := copyFile(program, l.path(file("kubelet"))); err != nil {
				return fmt.Errorf("copy the kubelet: %w", err)
			}
			for name, content := range map[string]string{"config.yaml": config, "kubeconfig": kubeconfig} {
				if err := os.WriteFile(l.path(file(name)), []byte(content), 0o600); err != nil {
					return fmt.Errorf("write the kubelet's %s: %w", name, err)
				}
			}
			if err := l.sysctls(ctx); err != nil {
				return err
			}
			if _, err := l.on(ctx, "systemctl", "stop", hostconfig.UnitNodeAgent); err != nil {
				return err
			}
			_, err := l.on(ctx, "systemd-run", "--unit="+stockUnit, "--collect", "-p", "Delegate=yes", "-p", "KillMode=process",
				"-p", "TasksMax=infinity", file("kubelet"), "--config="+file("config.yaml"), "--kubeconfig="+file("kubeconfig"),
				"--root-dir="+stockDir, "--hostname-override="+worker, "--v=0")
			return err
		},
		stop: func(ctx context.Context) error {
			_, err := l.on(ctx, "systemctl", "stop", stockUnit)
			return err
		},
	}
}

// sysctls are the kernel's settings that the kubelet insists on. They are the
// machine's, and read-only on lab hosts; so the worker is shown files with what
// the kubelet would set.
func (l *lab) sysctls(ctx context.Context) error {
	for name, value := range map[string]string{"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"} {
		setting, shown := filepath.Join("/proc/sys", name), filepath.Join(stockDir, filepath.Base(name))
		if is, err := os.ReadFile(l.path(setting)); err == nil && strings.TrimSpace(string(is)) == value {
			continue
		}
		if err := os.WriteFile(l.path(shown), []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("write what is shown of a kernel setting: %w", err)
		}
		if _, err := l.on(ctx, "mount", "--bind", shown, setting); err != nil {
			return fmt.Errorf("show a kernel setting to the kubelet: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		target.Close()
		return err
	}
	return target.Close()
}

// process is the agent's.
func (a *agent) process(ctx context.Context, l *lab) (usage.Process, error) {
	pid, err := l.on(ctx, "systemctl", "show", "--property=MainPID", "--value", a.unit)
	if err != nil {
		return "", err
	}
	pid = strings.TrimSpace(pid)
	if pid == "0" {
		return "", fmt.Errorf("%s does not run", a.unit)
	}
	return usage.Process(l.path("/proc/" + pid)), nil
}
