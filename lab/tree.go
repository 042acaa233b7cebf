//go:build linux

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// treeSuite is the Debian release that hosts run.
const treeSuite = "bookworm"

// treePackages is what a host has installed beyond Debian's minimal base:
// what a freshly installed server has, and what tests look at hosts with.
var treePackages = []string{
	"bind9-dnsutils", "ca-certificates", "conntrack", "curl", "dbus",
	"ethtool", "iproute2", "iptables", "iputils-ping", "kmod", "netbase",
	"netcat-openbsd", "nftables", "openssh-server", "procps", "sudo",
	"systemd", "systemd-sysv",
}

// treeMasked are units that have no purpose in a lab, or would reach for the
// machine below it.
var treeMasked = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
	"e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
	"getty.target", "proc-sys-fs-binfmt_misc.automount",
	"sys-kernel-debug.mount", "sys-kernel-tracing.mount",
	"systemd-pstore.service",
}

// treeFiles are files of the tree itself; a host's own are written by prepare.
var treeFiles = map[string]string{
	"etc/systemd/journald.conf.d/lab.conf": "[Journal]\nReadKMsg=no\nSystemMaxUse=50M\nRuntimeMaxUse=20M\n",
	"etc/systemd/logind.conf.d/lab.conf":   "[Login]\nNAutoVTs=0\n",
	"etc/systemd/system.conf.d/lab.conf":   "[Manager]\nDefaultTimeoutStopSec=30s\n",
	"etc/ssh/sshd_config.d/lab.conf":       "UseDNS no\nMaxStartups 100\n",
	"var/log/journal/.keep":                "",
}

// treeKey names the cached tree; it changes with everything that goes into it.
func treeKey() string {
	sum := sha256.New()
	fmt.Fprintln(sum, treeSuite, runtime.GOARCH, treePackages, treeMasked)
	for _, path := range sortedKeys(treeFiles) {
		fmt.Fprintln(sum, path, treeFiles[path])
	}
	return fmt.Sprintf("%s-%s-%x", treeSuite, runtime.GOARCH, sum.Sum(nil)[:4])
}

// tree returns the directory of the Debian tree, making it if the cache does
// not have it yet. That takes a minute or two and the mirror.
func (s *Store) tree(ctx context.Context) (string, error) {
	if err := os.MkdirAll(s.CacheDir, 0o755); err != nil {
		return "", fmt.Errorf("create cache: %w", err)
	}
	path := filepath.Join(s.CacheDir, treeKey())
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := lockDir(s.CacheDir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // made while we waited
		return path, nil
	}
	partial := path + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", fmt.Errorf("clear unfinished tree: %w", err)
	}
	if err := s.debootstrap(ctx, partial); err != nil {
		return "", err
	}
	if err := customize(partial); err != nil {
		return "", fmt.Errorf("customize Debian tree: %w", err)
	}
	if err := os.Rename(partial, path); err != nil {
		return "", fmt.Errorf("keep Debian tree: %w", err)
	}
	return path, nil
}

func (s *Store) debootstrap(ctx context.Context, target string) error {
	mirror := s.Mirror
	if mirror == "" {
		var err error
		if mirror, err = aptMirror("/etc/apt"); err != nil {
			return err
		}
	}
	s.logger().Info("making the Debian tree, once", "mirror", mirror, "suite", treeSuite)
	start := time.Now()
	command := exec.CommandContext(ctx, "debootstrap", "--variant=minbase",
		"--include="+strings.Join(treePackages, ","), treeSuite, target, mirror)
	command.Env = append(os.Environ(), aptProxy(ctx)...)
	// It mounts /proc and /sys in the tree: in namespaces of its own, so that
	// neither they nor its children outlive it, and us, if it is killed.
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Cloneflags: unix.CLONE_NEWPID}
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := runTied(command); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("debootstrap from %s: %w\n%s", mirror, err, lastLines(output.String(), 10))
	}
	s.logger().Info("Debian tree made", "took", time.Since(start).Round(time.Second))
	return nil
}

// runTied runs a command that ends with this process, even if that is killed.
func runTied(command *exec.Cmd) error {
	// The kernel watches the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Pdeathsig = unix.SIGKILL
	return command.Run()
}

// aptProxy returns the environment that makes debootstrap use apt's proxy.
func aptProxy(ctx context.Context) []string {
	output, err := exec.CommandContext(ctx, "apt-config", "shell", "P", "Acquire::http::Proxy").Output()
	if err != nil {
		return nil
	}
	value, ok := strings.CutPrefix(strings.TrimSpace(string(output)), "P=")
	if value = strings.Trim(value, "'"); !ok || value == "" || value == "DIRECT" {
		return nil
	}
	return []string{"http_proxy=" + value}
}

// customize turns a debootstrapped tree into what all hosts have in common.
func customize(root string) error {
	for _, pattern := range []string{
		"etc/ssh/ssh_host_*", "etc/machine-id", "etc/hostname", "etc/resolv.conf",
		"var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*.log",
	} {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, match := range matches {
			if err := os.RemoveAll(match); err != nil {
				return err
			}
		}
	}
	for _, unit := range treeMasked {
		path := filepath.Join(root, "etc/systemd/system", unit)
		if err := os.Symlink("/dev/null", path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for path, content := range treeFiles {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// DeleteCache removes every cached tree. Labs that stand on one must be
// deleted before.
func (s *Store) DeleteCache() error {
	labs, err := s.List()
	if err != nil {
		return err
	}
	if len(labs) > 0 {
		return fmt.Errorf("lab %s stands on the cache: delete it first", labs[0].Name)
	}
	if err := os.RemoveAll(s.CacheDir); err != nil {
		return fmt.Errorf("delete cache: %w", err)
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
