//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// State of a host.
type State string

const (
	Running State = "running"
	Stopped State = "stopped"
)

// How long hosts may take.
const (
	bootTimeout = 90 * time.Second // from the first process to an answer of sshd
	stopTimeout = 60 * time.Second // for a clean shutdown; then it is killed
	killTimeout = 10 * time.Second // for a killed host's processes to be gone
)

// powerOff asks systemd to shut the host down (SIGRTMIN+4).
const powerOff = syscall.Signal(34 + 4)

// initProcess identifies a host's first process, as the machine sees it,
// beyond the reuse of process numbers and restarts of the machine.
type initProcess struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // in ticks since the machine's boot
	Boot  string `json:"boot"`
}

// State tells whether the host is running.
func (h *Host) State() State {
	if _, running := h.process(); running {
		return Running
	}
	return Stopped
}

// IsCut tells whether the host's own link is down.
func (h *Host) IsCut() bool { return h.lab.isCut(h.Name, "") }

func (h *Host) processFile() string { return filepath.Join(h.dir(), "init.json") }

// process returns the host's first process if it is alive.
func (h *Host) process() (initProcess, bool) {
	var recorded initProcess
	raw, err := os.ReadFile(h.processFile())
	if err != nil || json.Unmarshal(raw, &recorded) != nil {
		return recorded, false
	}
	current, err := identify(recorded.PID)
	return recorded, err == nil && current == recorded
}

// identify reads what identifies a process; it fails for one that has ended,
// even if nobody has taken notice yet.
func identify(pid int) (initProcess, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return initProcess{}, fmt.Errorf("examine process: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return initProcess{}, fmt.Errorf("read boot id: %w", err)
	}
	// The name, in parentheses, may hold anything. After it: state, parent,
	// …; the start time is the 22nd field of all.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || slices.Contains([]string{"Z", "X", "x"}, fields[0]) {
		return initProcess{}, fmt.Errorf("process %d has ended", pid)
	}
	return initProcess{PID: pid, Start: fields[19], Boot: strings.TrimSpace(string(boot))}, nil
}

// boot starts the host if it is not running, and returns once systemd has
// been started in it.
func (h *Host) boot() error {
	if _, running := h.process(); running {
		return nil
	}
	hierarchies, err := machineHierarchies()
	if err != nil {
		return err
	}
	if err := clearCgroups(hierarchies, h.cgroup()); err != nil {
		return err
	}
	if err := h.makeCgroups(hierarchies); err != nil {
		return err
	}
	child, err := h.spawn()
	if err != nil {
		return err
	}
	if err := h.furnish(child, hierarchies); err != nil {
		_ = unix.Kill(child.pid, unix.SIGKILL)
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	for _, cut := range h.lab.Cuts {
		hosts, err := h.lab.ends(cut.A, cut.B)
		if err != nil {
			return err
		}
		if len(hosts) == 2 && slices.Contains(hosts, h) {
			if err := applyCut(hosts, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// child is a host's init that waits for its description.
type child struct {
	pid    int
	spec   *os.File // written once, then closed
	status *os.File // read until the end
}

// spawn starts this program again in new namespaces, as HostInit.
func (h *Host) spawn() (*child, error) {
	console, err := os.OpenFile(h.Console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	defer console.Close()
	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer specRead.Close()
	statusRead, statusWrite, err := os.Pipe()
	if err != nil {
		specWrite.Close()
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer statusWrite.Close()
	command := exec.Command("/proc/self/exe", HostInitArgs...)
	command.Env = []string{}
	command.Dir = "/"
	command.Stdout, command.Stderr = console, console
	command.ExtraFiles = []*os.File{specRead, statusWrite} // specFD, statusFD
	command.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID |
			unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := command.Start(); err != nil {
		specWrite.Close()
		statusRead.Close()
		return nil, fmt.Errorf("start init of %s: %w", h.Name, err)
	}
	// Reaps the host's init should this process outlive it.
	go func() { _ = command.Wait() }()
	return &child{pid: command.Process.Pid, spec: specWrite, status: statusRead}, nil
}

// furnish gives a waiting init its cgroups, cable and description, and waits
// until it has become systemd.
func (h *Host) furnish(child *child, hierarchies []hierarchy) error {
	defer child.status.Close()
	defer child.spec.Close()
	if err := h.enterCgroups(hierarchies, child.pid); err != nil {
		return err
	}
	process, err := identify(child.pid)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(process)
	if err != nil {
		return fmt.Errorf("encode process: %w", err)
	}
	if err := writeFile(h.processFile(), raw, 0o600); err != nil {
		return err
	}
	if err := h.plug(child.pid); err != nil {
		return err
	}
	spec := hostSpec{
		Name:        h.Name,
		Lower:       h.lab.Tree,
		Dir:         h.dir(),
		BootID:      uuid.NewString(),
		Hierarchies: hierarchies,
	}
	if err := h.describeNetwork(&spec); err != nil {
		return err
	}
	if exists("/lib/modules") {
		spec.Modules = "/lib/modules"
	}
	if err := json.NewEncoder(child.spec).Encode(spec); err != nil {
		return fmt.Errorf("describe host: %w", err)
	}
	child.spec.Close()
	if err := child.status.SetReadDeadline(time.Now().Add(bootTimeout)); err != nil {
		return fmt.Errorf("wait for init: %w", err)
	}
	problem, err := io.ReadAll(child.status)
	if err != nil {
		return fmt.Errorf("wait for init: %w", err)
	}
	if len(problem) > 0 {
		return errors.New(string(problem))
	}
	return nil
}

// waitSSH returns once root can log into the host with the lab's key.
func (h *Host) waitSSH(ctx context.Context, config *ssh.ClientConfig) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	for {
		err := tryLogin(ctx, net.JoinHostPort(h.Address, "22"), config)
		if err == nil {
			return nil
		}
		if h.State() != Running {
			return fmt.Errorf("%s stopped while booting: journalctl -D %s", h.Name, h.Journal())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for sshd of %s: %w (last: %v; journalctl -D %s)", h.Name, ctx.Err(), err, h.Journal())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func tryLogin(ctx context.Context, address string, config *ssh.ClientConfig) error {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	client, chans, reqs, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(reqs)
	go func() {
		for range chans {
		}
	}()
	return client.Close()
}

// shutDown asks the host's systemd to power off, and kills what is left when
// it does not within stopTimeout.
func (h *Host) shutDown(ctx context.Context) error {
	process, running := h.process()
	if !running {
		return nil
	}
	if err := unix.Kill(process.PID, powerOff); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop %s: %w", h.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := h.waitGone(ctx); err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		h.lab.log.Warn("host did not power off, killing it", "host", h.Name, "after", stopTimeout)
		return h.powerCut(context.WithoutCancel(ctx))
	}
	return nil
}

// powerCut ends every process of the host at once: the kernel kills a PID
// namespace with its first process.
func (h *Host) powerCut(ctx context.Context) error {
	process, running := h.process()
	if !running {
		return nil
	}
	if err := unix.Kill(process.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %s: %w", h.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return h.waitGone(ctx)
}

func (h *Host) waitGone(ctx context.Context) error {
	for {
		if _, running := h.process(); !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to end: %w", h.Name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Start boots the named hosts with the disks they have, all of them if none
// is named, and returns when they can be logged into. A host whose link is
// cut is not waited for.
func (s *Store) Start(ctx context.Context, name string, hosts ...string) error {
	if err := s.Check(); err != nil {
		return err
	}
	return s.change(name, func(lab *Lab) error { return lab.start(ctx, hosts) })
}

func (l *Lab) start(ctx context.Context, names []string) error {
	if err := l.makeSwitch(); err != nil {
		return err
	}
	config, err := l.clientConfig()
	if err != nil {
		return err
	}
	return l.each(names, func(host *Host) error {
		if err := host.boot(); err != nil {
			return err
		}
		if host.IsCut() {
			return nil
		}
		return host.waitSSH(ctx, config)
	})
}

// Stop shuts the named hosts down cleanly, all of them if none is named.
func (s *Store) Stop(ctx context.Context, name string, hosts ...string) error {
	return s.change(name, func(lab *Lab) error {
		return lab.each(hosts, func(host *Host) error { return host.shutDown(ctx) })
	})
}

// Kill ends the named hosts at once, as a power cut would, all of them if
// none is named. What programs had not yet given to the kernel is lost.
func (s *Store) Kill(ctx context.Context, name string, hosts ...string) error {
	return s.change(name, func(lab *Lab) error {
		return lab.each(hosts, func(host *Host) error { return host.powerCut(ctx) })
	})
}

// each runs f on the named hosts, all of them if none is named, at the same
// time, and returns all errors.
func (l *Lab) each(names []string, f func(*Host) error) error {
	hosts := l.Hosts
	if len(names) > 0 {
		hosts = nil
		for _, name := range names {
			host, err := l.Host(name)
			if err != nil {
				return err
			}
			hosts = append(hosts, host)
		}
	}
	var group errgroup.Group
	errs := make([]error, len(hosts))
	for i, host := range hosts {
		group.Go(func() error {
			errs[i] = f(host)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// hostNames are the names of n hosts: prefix1, prefix2, …
func hostNames(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = prefix + strconv.Itoa(i+1)
	}
	return names
}
