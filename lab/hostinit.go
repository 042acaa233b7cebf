//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostInitArgs are the arguments a program is started with to become the
// init of a host. It has to call HostInit then, before anything else.
var HostInitArgs = []string{"lab", "init-host"}

// Descriptors of the init process beyond the standard ones.
const (
	specFD   = 3 // the hostSpec, once the machine's side is ready
	statusFD = 4 // what went wrong; closed without a word by a good exec
)

// hostSpec is what a host's init has to know.
type hostSpec struct {
	Name        string
	Address     string // with mask
	Second      string // IPv6 address with mask; empty: the kernel has no IPv6
	Gateway     string
	SecondWay   string // the gateway for IPv6; empty: there is none
	Lower       string
	Dir         string
	Modules     string // the machine's kernel modules, or empty
	BootID      string // of this boot of the host
	Hierarchies []hierarchy
}

// HostInit runs as the first process inside a host's namespaces: it mounts
// the host's file systems, sets its network up and becomes systemd. It does
// not return.
func HostInit() {
	runtime.LockOSThread()
	unix.CloseOnExec(specFD)
	unix.CloseOnExec(statusFD)
	status := os.NewFile(statusFD, "status")
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this command is run by `lab create` and `lab start` only")
		os.Exit(2)
	}
	err := becomeHost(os.NewFile(specFD, "spec"))
	fmt.Fprintln(os.Stderr, err)
	fmt.Fprint(status, err)
	os.Exit(1)
}

func becomeHost(input *os.File) error {
	var spec hostSpec
	if err := json.NewDecoder(input).Decode(&spec); err != nil {
		return fmt.Errorf("read host description: %w", err)
	}
	// Only now are we in the host's cgroups, which become the root of what
	// the host sees.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroups: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := setUpNetwork(spec); err != nil {
		return err
	}
	if err := mountHost(spec); err != nil {
		return err
	}
	// A host must not set the machine's clock.
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_TIME, 0, 0, 0); err != nil {
		return fmt.Errorf("drop CAP_SYS_TIME: %w", err)
	}
	err := syscall.Exec("/lib/systemd/systemd",
		[]string{"/sbin/init", "--log-target=console", "--show-status=no"},
		[]string{"container=lab", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
	return fmt.Errorf("start systemd: %w", err)
}

func setUpNetwork(spec hostSpec) error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	link, err := netlink.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("find %s: %w", hostLink, err)
	}
	address, err := netlink.ParseAddr(spec.Address)
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	gateway, err := netlink.ParseAddr(spec.Gateway + "/32")
	if err != nil {
		return fmt.Errorf("parse gateway: %w", err)
	}
	if err := errors.Join(netlink.LinkSetUp(loopback), netlink.AddrAdd(link, address), netlink.LinkSetUp(link)); err != nil {
		return fmt.Errorf("set links up: %w", err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.IP}); err != nil {
		return fmt.Errorf("set default route: %w", err)
	}
	if spec.Second == "" {
		return nil
	}
	second, err := netlink.ParseAddr(spec.Second)
	if err != nil {
		return fmt.Errorf("parse second address: %w", err)
	}
	second.Flags = unix.IFA_F_NODAD // nobody else has it
	if err := netlink.AddrAdd(link, second); err != nil {
		return fmt.Errorf("set second address: %w", err)
	}
	if spec.SecondWay == "" {
		return nil
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(spec.SecondWay)}); err != nil {
		return fmt.Errorf("set default route of IPv6: %w", err)
	}
	return nil
}

// mount is one mount below the host's root.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

const (
	quiet    = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	readOnly = unix.MS_RDONLY
)

// mountHost builds the host's tree of mounts and makes it the root.
func mountHost(spec hostSpec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := filepath.Join(spec.Dir, "root")
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", spec.Lower, spec.Dir, spec.Dir)
	mounts := []mount{
		{"overlay", "", "overlay", 0, layers},
		{spec.Dir + "/varlib", "var/lib", "", unix.MS_BIND, ""},
		{"proc", "proc", "proc", quiet, ""},
		{"sysfs", "sys", "sysfs", quiet, ""},
		{"tmpfs", "dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"},
		{"tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "dev/mqueue", "mqueue", quiet, ""},
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		// The kernel lets a user namespace mount proc only where another one is
		// seen that nothing is mounted over, as it is on the host's own below.
		{"proc", "run/lab/proc", "proc", quiet, ""},
	}
	mounts = append(mounts, cgroupMounts(spec.Hierarchies)...)
	// What is not of a namespace is the machine's: hosts may look at it only.
	for _, file := range []string{"proc/sys", "proc/sysrq-trigger"} {
		if !exists("/" + file) { // not every kernel has SysRq
			continue
		}
		mounts = append(mounts,
			mount{filepath.Join(root, file), file, "", unix.MS_BIND, ""},
			mount{"", file, "", unix.MS_BIND | unix.MS_REMOUNT | readOnly | quiet, ""})
	}
	bootID := filepath.Join(spec.Dir, "boot_id")
	if err := os.WriteFile(bootID, []byte(spec.BootID+"\n"), 0o444); err != nil {
		return fmt.Errorf("write boot id: %w", err)
	}
	mounts = append(mounts,
		mount{filepath.Join(spec.Dir, "sysnet"), "proc/sys/net", "", unix.MS_BIND, ""},
		mount{bootID, "proc/sys/kernel/random/boot_id", "", unix.MS_BIND, ""})
	if spec.Modules != "" {
		mounts = append(mounts,
			mount{spec.Modules, "lib/modules", "", unix.MS_BIND, ""},
			mount{"", "lib/modules", "", unix.MS_BIND | unix.MS_REMOUNT | readOnly, ""})
	}
	for _, m := range mounts {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("make mount point %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on /%s: %w", m.kind, m.target, err)
		}
		if m.target == "proc" {
			// Kept writable before /proc/sys is closed over it.
			if err := keepNetworkSysctls(spec.Dir, root); err != nil {
				return err
			}
		}
	}
	if err := linkCombined(root, spec.Hierarchies); err != nil {
		return err
	}
	if err := makeDevices(filepath.Join(root, "dev")); err != nil {
		return err
	}
	return pivot(root)
}

// keepNetworkSysctls binds /proc/sys/net aside.
func keepNetworkSysctls(dir, root string) error {
	aside := filepath.Join(dir, "sysnet")
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount(filepath.Join(root, "proc/sys/net"), aside, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep network sysctls: %w", err)
	}
	return nil
}

// cgroupMounts lays a host's hierarchies out the way systemd expects them.
func cgroupMounts(hierarchies []hierarchy) []mount {
	if unified(hierarchies) {
		return []mount{{"cgroup2", "sys/fs/cgroup", "cgroup2", quiet, ""}}
	}
	mounts := []mount{{"tmpfs", "sys/fs/cgroup", "tmpfs", quiet, "mode=755"}}
	for _, h := range hierarchies {
		mounts = append(mounts, mount{h.Type, "sys/fs/cgroup/" + h.directory(), h.Type, quiet, h.Options})
	}
	return mounts
}

// directory is the hierarchy's name below /sys/fs/cgroup in a host.
func (h hierarchy) directory() string {
	if h.Type == "cgroup2" {
		return "unified"
	}
	if name, ok := strings.CutPrefix(h.Options, "none,name="); ok {
		return name
	}
	return h.Options
}

// linkCombined gives each controller of a combined hierarchy (cpu,cpuacct) a
// name of its own.
func linkCombined(root string, hierarchies []hierarchy) error {
	for _, h := range hierarchies {
		if h.Type != "cgroup" || !strings.Contains(h.Options, ",") || strings.HasPrefix(h.Options, "none,") {
			continue
		}
		for _, controller := range strings.Split(h.Options, ",") {
			if err := os.Symlink(h.directory(), filepath.Join(root, "sys/fs/cgroup", controller)); err != nil {
				return fmt.Errorf("link controller: %w", err)
			}
		}
	}
	return nil
}

func makeDevices(dev string) error {
	devices := []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9},
		{"kmsg", 1, 11}, {"tty", 5, 0}, {"fuse", 10, 229}, {"net/tun", 10, 200},
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, device := range devices {
		file := filepath.Join(dev, device.name)
		if err := os.MkdirAll(path.Dir(file), 0o755); err != nil {
			return fmt.Errorf("make device directory: %w", err)
		}
		if err := unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(device.major, device.minor))); err != nil {
			return fmt.Errorf("make device %s: %w", device.name, err)
		}
	}
	links := map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return fmt.Errorf("make device link: %w", err)
		}
	}
	return nil
}

// pivot makes root the root file system and lets go of the machine's.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's file systems: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// Services in the host may share mounts among themselves, as on any host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}
