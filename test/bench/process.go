package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"clusterctl/bootstrap/pki"
	"clusterctl/hostconfig"
	"clusterctl/test/fixture"
)

// host is where one server and its etcd run.
type host struct {
	dir    string
	config hostconfig.ControlPlane
	pki    hostconfig.PKI
	keys   pki.Bundle
	ports  []int // API, etcd's clients, etcd's peers
}

// server is how to start one: it writes the files that it needs.
type server func(h *host) (*exec.Cmd, error)

// advertised is an address for documentation: endpoints may not be loopback.
const advertised = "192.0.2.1"

func newHost(dir string) (*host, error) {
	h := &host{dir: dir}
	var err error
	if h.ports, err = fixture.Ports(3); err != nil {
		return nil, err
	}
	h.config = fixture.ControlPlane(dir, "cp1", advertised, h.ports[0], h.url(1))
	h.pki = hostconfig.PKI(h.config.PKIDir)
	if h.keys, err = fixture.WritePKI(h.pki); err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	return h, nil
}

func (h *host) url(port int) string { return "https://" + fixture.Loopback(h.ports[port]) }

// configured writes config for a command of ours.
func (h *host) configured(program, command string, config any) (*exec.Cmd, error) {
	content, err := hostconfig.Marshal(config)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(h.dir, command+".yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, err
	}
	return exec.Command(program, command, "--config", file), nil
}

func (h *host) etcd(program string) (*exec.Cmd, error) {
	return h.configured(program, "etcd", hostconfig.Etcd{
		Name: "cp1", Address: "127.0.0.1", ClientPort: h.ports[1], PeerPort: h.ports[2],
		DataDir: filepath.Join(h.dir, "etcd"), PKIDir: h.config.PKIDir,
		InitialCluster: "cp1=" + h.url(2), InitialState: "new", ClusterToken: "bench",
	})
}

func ourServer(program string) server {
	return func(h *host) (*exec.Cmd, error) { return h.configured(program, "apiserver", h.config) }
}

// stockServer has what ours has by default: Node and RBAC, aggregation,
// NodeRestriction beside upstream's plugins, no audit log.
func stockServer(program string) server {
	return func(h *host) (*exec.Cmd, error) {
		return exec.Command(program,
			"--etcd-servers="+h.url(1), "--etcd-cafile="+h.pki.EtcdCA(),
			"--etcd-certfile="+h.pki.Cert(hostconfig.PairAPIServerEtcd), "--etcd-keyfile="+h.pki.Key(hostconfig.PairAPIServerEtcd),
			"--bind-address=127.0.0.1", "--advertise-address="+advertised, "--secure-port="+strconv.Itoa(h.ports[0]),
			"--tls-cert-file="+h.pki.Cert(hostconfig.PairAPIServer), "--tls-private-key-file="+h.pki.Key(hostconfig.PairAPIServer),
			"--client-ca-file="+h.pki.ClusterCA(), "--requestheader-client-ca-file="+h.pki.FrontProxyCA(),
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file="+h.pki.Cert(hostconfig.PairFrontProxy), "--proxy-client-key-file="+h.pki.Key(hostconfig.PairFrontProxy),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+h.pki.ServiceAccountPub(),
			"--service-account-signing-key-file="+h.pki.ServiceAccountKey(),
			"--service-cluster-ip-range="+h.config.Cluster.ServiceCIDR, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		), nil
	}
}

// process is a child of this one. Its log is kept for when it fails.
type process struct {
	*exec.Cmd
	log  string
	done chan error
}

func (h *host) start(command *exec.Cmd, err error) (*process, error) {
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp(h.dir, "log-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	p := &process{Cmd: command, log: log.Name(), done: make(chan error, 1)}
	go func() { p.done <- command.Wait() }()
	return p, nil
}

// stop ends the process, and waits for it.
func (p *process) stop() {
	if p.Process.Signal(syscall.SIGTERM) != nil {
		return // it has ended
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		// It is ending already if this fails.
		_ = p.Process.Kill()
		<-p.done
	}
}

// awaitReady waits until /readyz of the server says ok.
func (h *host) awaitReady(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	transport, err := rest.TransportFor(fixture.Anonymous(h.keys, h.ports[0]))
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url(0)+"/readyz", nil)
		if err != nil {
			return err
		}
		if answer, err := transport.RoundTrip(request); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("the server ended: %w", err)
		case <-ctx.Done():
			return errors.New("the server is not ready after two minutes")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tick is the unit of CPU time in /proc, the same on every Linux.
const tick = time.Second / 100

// cpu is what the process has used so far.
func (p *process) cpu() (time.Duration, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The fields after the name, which ends with the last parenthesis.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	var sum time.Duration
	for _, field := range fields[11:13] { // utime, stime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse CPU time: %w", err)
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}

// memory is in bytes.
type memory struct{ resident, anonymous, peak int64 }

func (p *process) memory() (memory, error) {
	var m memory
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		target := map[string]*int64{"VmRSS:": &m.resident, "RssAnon:": &m.anonymous, "VmHWM:": &m.peak}[fields[0]]
		if target == nil {
			continue
		}
		kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("parse memory: %w", err)
		}
		*target = kilobytes << 10
	}
	return m, nil
}
