package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/hostop/certcheck"
)

// units are all services of ours.
var units = []string{hostconfig.UnitNodeAgent, hostconfig.UnitControlPlane, hostconfig.UnitContainerd, hostconfig.UnitEtcd}

// unitDirectories are where services of others are installed.
var unitDirectories = []string{hostconfig.UnitDir, "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// modules are the kernel modules a node uses.
var modules = []string{"overlay", "br_netfilter", "vxlan", "veth", "bridge", "nf_conntrack", "nf_tables"}

// Facts gathers what the host says of itself. Nothing is changed and nothing is
// waited for.
func (h *Hand) Facts(ctx context.Context) (*hostop.Facts, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name: %w", err)
	}
	f := &hostop.Facts{
		Hostname:  hostname,
		MachineID: strings.TrimSpace(h.read("/etc/machine-id")),
		OS:        h.readOS(),
		Arch:      runtime.GOARCH,
		Kernel:    strings.TrimSpace(h.read("/proc/sys/kernel/osrelease")),
		Init:      h.init.Name(),
		Cgroup:    h.readCgroup(),
		Root:      os.Geteuid() == 0,
		CPUs:      runtime.NumCPU(),
		Disks:     map[string]hostop.Disk{},
		Services:  map[string]string{},
		EtcdData:  h.exists(hostconfig.EtcdDir + "/member"),
	}
	f.SysResource = hasCapability(h.read("/proc/self/status"), unix.CAP_SYS_RESOURCE)
	f.Addresses = addresses()
	f.Memory, f.Swap = memorySizes(h.read("/proc/meminfo"), h.read("/proc/swaps"))
	for _, path := range []string{"/var/lib", "/usr/local/lib", "/etc"} {
		if d, err := h.disk(path); err == nil {
			f.Disks[path] = d
		}
	}
	f.Listening = h.sockets()
	f.Resolvers = resolvers(h.read("/etc/resolv.conf"))
	if target, err := os.Readlink(h.path(hostconfig.BinDir)); err == nil {
		f.Installed = filepath.Base(target)
	}
	for _, unit := range units {
		// systemctl is asked only about what is there.
		if path := h.init.UnitPath(unit); path == "" || !h.exists(path) {
			continue
		}
		status, err := h.init.Status(ctx, unit)
		if err != nil {
			return nil, err
		}
		f.Services[unit] = status.Active
	}
	authorities, err := h.readAuthorities()
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	if len(authorities) > 0 {
		if f.Authorities, err = certcheck.FingerprintFiles(authorities); err != nil {
			return nil, fmt.Errorf("read certificate authorities: %w", err)
		}
	}
	switch {
	case h.exists(hostconfig.CtrConf):
		f.Runtime = hostconfig.RuntimeContainerd
	case h.exists(hostconfig.CRIOConf):
		f.Runtime = hostconfig.RuntimeCRIO
		status, err := h.init.Status(ctx, hostconfig.UnitCRIO)
		if err != nil {
			return nil, err
		}
		f.Services[hostconfig.UnitCRIO] = status.Active
	}
	f.CRIO = slices.ContainsFunc(unitDirectories, func(directory string) bool {
		return h.exists(directory + "/" + hostconfig.UnitCRIO + ".service")
	})
	f.ImagePolicy = h.exists(hostconfig.ImagePolicy)
	f.ModulesAbsent = h.modulesAbsent(f.Kernel)
	f.IPTables = h.installed("iptables") && h.installed("ip6tables")
	f.Clock = time.Now()
	return f, nil
}

// installed tells whether a program is where services look for it.
func (h *Hand) installed(program string) bool {
	return slices.ContainsFunc([]string{"/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"},
		func(directory string) bool { return h.exists(directory + program) })
}

// read is a file's content, or nothing.
func (h *Hand) read(path string) string {
	raw, err := os.ReadFile(h.path(path))
	if err != nil {
		return ""
	}
	return string(raw)
}

func (h *Hand) exists(path string) bool {
	_, err := os.Lstat(h.path(path))
	return err == nil
}

func (h *Hand) readOS() hostop.OS {
	text := h.read("/etc/os-release")
	if text == "" {
		text = h.read("/usr/lib/os-release")
	}
	var system hostop.OS
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			system.ID = value
		case "VERSION_ID":
			system.Version = value
		case "PRETTY_NAME":
			system.Name = value
		}
	}
	return system
}

// resolvers lists the nameservers of a resolv.conf.
func resolvers(text string) []string {
	list := []string{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "nameserver" {
			list = append(list, fields[1])
		}
	}
	return list
}

// readCgroup says what is mounted below /sys/fs/cgroup.
func (h *Hand) readCgroup() hostop.Cgroup {
	if list := h.read("/sys/fs/cgroup/cgroup.controllers"); list != "" || h.exists("/sys/fs/cgroup/cgroup.controllers") {
		return hostop.Cgroup{Version: 2, Controllers: strings.Fields(list)}
	}
	cgroup := hostop.Cgroup{Version: 1}
	for line := range strings.Lines(h.read("/proc/self/mountinfo")) {
		mount, ok := parseMount(line)
		if !ok || mount.kind != "cgroup" {
			continue
		}
		for option := range strings.SplitSeq(mount.superOptions, ",") {
			switch option {
			case "rw", "ro", "xattr", "clone_children":
			default:
				if !strings.Contains(option, "=") && !slices.Contains(cgroup.Controllers, option) {
					cgroup.Controllers = append(cgroup.Controllers, option)
				}
			}
		}
	}
	slices.Sort(cgroup.Controllers)
	return cgroup
}

func hasCapability(status string, capability int) bool {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && bits&(1<<capability) != 0
		}
	}
	return false
}

// addresses are the host's global unicast ones, but not those of links of ours.
func addresses() []string {
	list := []string{}
	links, err := net.Interfaces()
	if err != nil {
		return list
	}
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 || slices.Contains(ownLinks, link.Name) {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue
		}
		for _, addr := range addrs {
			if ipnet, ok := addr.(*net.IPNet); ok && ipnet.IP.IsGlobalUnicast() {
				list = append(list, ipnet.IP.String())
			}
		}
	}
	return list
}

// memorySizes reads bytes of RAM and of swap from /proc.
func memorySizes(meminfo, swaps string) (ram, swap int64) {
	for line := range strings.Lines(meminfo) {
		if value, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			fields := strings.Fields(value)
			if len(fields) > 0 {
				kib, _ := strconv.ParseInt(fields[0], 10, 64)
				ram = kib << 10
			}
		}
	}
	for line := range strings.Lines(swaps) {
		if fields := strings.Fields(line); len(fields) >= 3 {
			kib, _ := strconv.ParseInt(fields[2], 10, 64)
			swap += kib << 10
		}
	}
	return ram, swap
}

// disk is the room on the file system that path is or will be on.
func (h *Hand) disk(path string) (hostop.Disk, error) {
	for !h.exists(path) && path != "/" {
		path = filepath.Dir(path)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(h.path(path), &stat); err != nil {
		return hostop.Disk{}, fmt.Errorf("look at disk: %w", err)
	}
	size := int64(stat.Bsize)
	return hostop.Disk{Total: int64(stat.Blocks) * size, Free: int64(stat.Bavail) * size}, nil
}

// modulesAbsent lists what the kernel neither has nor can load. Where no list
// of modules is to be seen (containers), nothing is claimed.
func (h *Hand) modulesAbsent(kernel string) []string {
	directory := filepath.Join("/lib/modules", kernel)
	loadable := h.read(directory + "/modules.dep")
	builtin := h.read(directory + "/modules.builtin")
	loaded := map[string]bool{}
	for line := range strings.Lines(h.read("/proc/modules")) {
		loaded[strings.Fields(line)[0]] = true
	}
	absent := []string{}
	if loadable == "" && builtin == "" {
		return absent
	}
	files := strings.ReplaceAll(loadable+builtin, "-", "_")
	for _, name := range modules {
		if !loaded[name] && !h.exists("/sys/module/"+name) && !strings.Contains(files, "/"+name+".ko") {
			absent = append(absent, name)
		}
	}
	return absent
}

// sockets lists listening TCP sockets and unconnected UDP ones.
func (h *Hand) sockets() []hostop.Listener {
	list := []hostop.Listener{}
	byInode := map[string]int{}
	for _, table := range []struct{ file, network, state string }{
		{"tcp", "tcp", "0A"}, {"tcp6", "tcp", "0A"}, {"udp", "udp", "07"}, {"udp6", "udp", "07"},
	} {
		scanner := bufio.NewScanner(strings.NewReader(h.read("/proc/net/" + table.file)))
		for scanner.Scan() {
			fields := strings.Fields(scanner.Text())
			if len(fields) < 10 || fields[3] != table.state {
				continue
			}
			address, ok := parseSocket(fields[1])
			if !ok {
				continue
			}
			byInode[fields[9]] = len(list)
			list = append(list, hostop.Listener{Network: table.network, Address: address})
		}
	}
	h.nameSockets(list, byInode)
	return list
}

// parseSocket reads the kernel's hexadecimal address:port.
func parseSocket(s string) (string, bool) {
	addr, port, ok := strings.Cut(s, ":")
	if !ok || len(addr)%8 != 0 {
		return "", false
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return "", false
	}
	ip := make(net.IP, 0, len(addr)/2)
	for ; addr != ""; addr = addr[8:] {
		word, err := strconv.ParseUint(addr[:8], 16, 32)
		if err != nil {
			return "", false
		}
		ip = append(ip, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	return net.JoinHostPort(ip.String(), strconv.FormatUint(n, 10)), true
}

// nameSockets finds the processes that hold sockets, as far as they can be seen.
func (h *Hand) nameSockets(list []hostop.Listener, byInode map[string]int) {
	left := len(byInode)
	processes, err := os.ReadDir(h.path("/proc"))
	if err != nil {
		return
	}
	for _, p := range processes {
		if left == 0 {
			return
		}
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		directory := h.path("/proc/" + p.Name())
		files, err := os.ReadDir(directory + "/fd")
		if err != nil {
			continue
		}
		for _, file := range files {
			target, err := os.Readlink(directory + "/fd/" + file.Name())
			if err != nil || !strings.HasPrefix(target, "socket:[") {
				continue
			}
			i, ok := byInode[strings.TrimSuffix(target[len("socket:["):], "]")]
			if !ok || list[i].Process != "" {
				continue
			}
			list[i].Process = strings.TrimSpace(h.read("/proc/" + p.Name() + "/comm"))
			left--
		}
	}
}
