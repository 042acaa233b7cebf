package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// sysctl is a setting of the kernel that the pod network needs.
type sysctl struct {
	name     string // below /proc/sys
	value    string
	optional string // what does not work without it, if it is not essential
	least    bool   // what is larger stays
}

// The room that the kernel has for connections, as kube-proxy asks for it.
const (
	connectionsPerCPU = 32 << 10
	connectionsLeast  = 128 << 10
	connectionsMost   = 1 << 20
)

// connectionSysctls have the kernel remember as many connections as a node has,
// and those of which one side is done for as long as the other may need.
func connectionSysctls(cpus int) []sysctl {
	const room, closing, idle = "a busy node drops connections", "connections that one side has closed are forgotten", "dead connections are remembered for days"
	most := min(max(connectionsPerCPU*cpus, connectionsLeast), connectionsMost)
	const prefix = "net/netfilter/nf_conntrack_"
	return []sysctl{
		{name: prefix + "max", value: strconv.Itoa(most), optional: room, least: true},
		{name: prefix + "buckets", value: strconv.Itoa(most / 4), optional: room, least: true},
		{name: prefix + "tcp_timeout_established", value: "86400", optional: idle},
		{name: prefix + "tcp_timeout_close_wait", value: "3600", optional: closing},
	}
}

// hostSysctls are the host's settings, with those of IPv6 if pods have such
// addresses.
func hostSysctls(six bool) ([]sysctl, error) {
	const service = "pods do not reach a service whose endpoint runs on their own node"
	settings := []sysctl{
		{name: "net/ipv4/ip_forward", value: "1"},
		{name: "net/bridge/bridge-nf-call-iptables", value: "1", optional: service},
	}
	settings = append(settings, connectionSysctls(runtime.NumCPU())...)
	if !six {
		return settings, nil
	}
	links, err := os.ReadDir(filepath.Join(procSys, "net/ipv6/conf"))
	if err != nil {
		return settings, fmt.Errorf("list links with IPv6: %w", err)
	}
	for _, link := range links {
		// A host that forwards would not listen to its router any more, from
		// which it may have its own address.
		name := "net/ipv6/conf/" + link.Name() + "/accept_ra"
		if !isUplink(link.Name()) {
			continue
		}
		if value, err := readSysctl(name); err == nil && value == "1" {
			settings = append(settings, sysctl{name: name, value: "2", optional: "the link has gone"})
		}
	}
	return append(settings,
		sysctl{name: "net/ipv6/conf/all/forwarding", value: "1"},
		sysctl{name: "net/bridge/bridge-nf-call-ip6tables", value: "1", optional: service}), nil
}

// isUplink tells links of the host from those of pods and of ours.
func isUplink(link string) bool {
	for _, other := range []string{"all", "default", "lo", BridgeLink, OverlayLink} {
		if link == other {
			return false
		}
	}
	return !strings.HasPrefix(link, "veth")
}

// originalsFile keeps, in the state directory, the values that we changed, as
// they were before.
const originalsFile = "sysctls.json"

// atLeast compares numbers.
func atLeast(current, value string) bool {
	have, err1 := strconv.Atoi(current)
	want, err2 := strconv.Atoi(value)
	return err1 == nil && err2 == nil && have >= want
}

const procSys = "/proc/sys"

func readSysctl(name string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(procSys, name))
	return strings.TrimSpace(string(raw)), err
}

// writeSysctl sets a value unless it is set.
func writeSysctl(name, value string) error {
	if current, err := readSysctl(name); err == nil && current == value {
		return nil
	}
	if err := os.WriteFile(filepath.Join(procSys, name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s: %w", name, err)
	}
	return nil
}

// setSysctls sets the host's settings, noting first what they were.
func setSysctls(stateDir string, settings []sysctl, log *slog.Logger) error {
	originals, err := readOriginals(stateDir)
	if err != nil {
		return err
	}
	var change []sysctl
	for _, s := range settings {
		current, err := readSysctl(s.name)
		if errors.Is(err, fs.ErrNotExist) && s.optional != "" {
			log.Debug("the kernel has no such setting", "sysctl", s.name, "consequence", s.optional)
			continue
		}
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", s.name, err)
		}
		if current == s.value || s.least && atLeast(current, s.value) {
			continue
		}
		if info, err := os.Stat(filepath.Join(procSys, s.name)); s.optional != "" && err == nil && info.Mode().Perm()&0o200 == 0 {
			log.Debug("the host must not change this setting", "sysctl", s.name, "consequence", s.optional)
			continue // a container's network has its host's
		}
		change = append(change, s)
		if _, known := originals[s.name]; !known {
			originals[s.name] = current
		}
	}
	if len(change) == 0 {
		return nil
	}
	if err := writeOriginals(stateDir, originals); err != nil {
		return err
	}
	var errs []error
	for _, s := range change {
		errs = append(errs, writeSysctl(s.name, s.value))
	}
	return errors.Join(errs...)
}

// restoreSysctls puts back what setSysctls changed.
func restoreSysctls(stateDir string, log *slog.Logger) error {
	originals, err := readOriginals(stateDir)
	if err != nil {
		return err
	}
	var errs []error
	for name, value := range originals {
		err := writeSysctl(name, value)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its module was unloaded
		}
		if err == nil {
			log.Info("put sysctl back", "sysctl", name, "value", value)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(stateDir, originalsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget sysctls: %w", err)
	}
	return nil
}

func readOriginals(stateDir string) (map[string]string, error) {
	originals := map[string]string{}
	raw, err := os.ReadFile(filepath.Join(stateDir, originalsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return originals, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read original sysctls: %w", err)
	}
	if err := json.Unmarshal(raw, &originals); err != nil {
		return nil, fmt.Errorf("parse original sysctls: %w", err)
	}
	return originals, nil
}

func writeOriginals(stateDir string, originals map[string]string) error {
	raw, err := json.MarshalIndent(originals, "", "  ")
	if err != nil {
		return fmt.Errorf("encode original sysctls: %w", err)
	}
	return writeFile(filepath.Join(stateDir, originalsFile), append(raw, '\n'), 0o600)
}
