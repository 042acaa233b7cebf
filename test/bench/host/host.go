package host

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"

	"clusterctl/bootstrap/pki"
	"clusterctl/hostconfig"
	"clusterctl/test/bench/usage"
	"clusterctl/test/fixture"
)

// Host is where one server and its etcd run.
type Host struct {
	Dir    string
	Config hostconfig.ControlPlane
	PKI    hostconfig.PKI
	Keys   pki.Bundle
	Ports  []int // API, etcd's clients, etcd's peers
}

// Advertised is what servers say of themselves, an address for documentation: endpoints may not be loopback.
const Advertised = "192.0.2.1"

// New writes keys below dir and finds free ports.
func New(dir string) (*Host, error) {
	h := &Host{Dir: dir}
	var err error
	if h.Ports, err = fixture.Ports(3); err != nil {
		return nil, err
	}
	h.Config = fixture.ControlPlane(dir, "cp1", Advertised, h.Ports[0], h.URL(1))
	h.PKI = hostconfig.PKI(h.Config.PKIDir)
	if h.Keys, err = fixture.WritePKI(h.PKI); err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	return h, nil
}

// URL is where the server on a port listens, by its place in Ports.
func (h *Host) URL(port int) string { return "https://" + fixture.Loopback(h.Ports[port]) }

// Configured writes config for a command of ours.
func (h *Host) Configured(program, command string, config any) (*exec.Cmd, error) {
	content, err := hostconfig.Marshal(config)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(h.Dir, command+".yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, err
	}
	return exec.Command(program, command, "--config", file), nil
}

// Etcd is a member of its own, run by our program.
func (h *Host) Etcd(program string) (*exec.Cmd, error) {
	return h.Configured(program, "etcd", hostconfig.Etcd{
		Name: "cp1", Address: "127.0.0.1", ClientPort: h.Ports[1], PeerPort: h.Ports[2],
		DataDir: filepath.Join(h.Dir, "etcd"), PKIDir: h.Config.PKIDir,
		InitialCluster: "cp1=" + h.URL(2), InitialState: "new", ClusterToken: "bench",
	})
}

// Process is a child of this one. Its log is kept for when it fails.
type Process struct {
	*exec.Cmd
	Log  string
	done chan error
}

// Start starts command unless err says that there is none.
func (h *Host) Start(command *exec.Cmd, err error) (*Process, error) {
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp(h.Dir, "log-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	p := &Process{Cmd: command, Log: log.Name(), done: make(chan error, 1)}
	go func() { p.done <- command.Wait() }()
	return p, nil
}

// Stop ends the process, and waits for it.
func (p *Process) Stop() {
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

// AwaitEtcd waits until the member answers, which takes a leader.
func (h *Host) AwaitEtcd(ctx context.Context, p *Process) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tls, err := transport.TLSInfo{
		CertFile: h.PKI.Cert(hostconfig.PairAPIServerEtcd), KeyFile: h.PKI.Key(hostconfig.PairAPIServerEtcd), TrustedCAFile: h.PKI.EtcdCA(),
	}.ClientConfig()
	if err != nil {
		return fmt.Errorf("load etcd client certificates: %w", err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{h.URL(1)}, TLS: tls, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("connect to etcd: %w", err)
	}
	defer client.Close()
	for {
		attempt, cancelAttempt := context.WithTimeout(ctx, time.Second)
		_, err := client.Get(attempt, "health")
		cancelAttempt()
		if err == nil {
			return nil
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("etcd ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("etcd does not answer: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// AwaitReady waits until /readyz of the server says ok.
func (h *Host) AwaitReady(ctx context.Context, p *Process) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	roundTripper, err := rest.TransportFor(fixture.Anonymous(h.Keys, h.Ports[0]))
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL(0)+"/readyz", nil)
		if err != nil {
			return err
		}
		if answer, err := roundTripper.RoundTrip(request); err == nil {
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

// CPU is what the process has used so far.
func (p *Process) CPU() (time.Duration, error) { return usage.Of(p.Process.Pid).CPU() }

// Memory is what the process holds now, and held at most.
func (p *Process) Memory() (usage.Memory, error) { return usage.Of(p.Process.Pid).Memory() }
