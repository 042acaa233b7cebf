//go:build linux

package lab

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Names inside the switch's namespace, and of the host's end of its cable.
const (
	uplinkName = "machine"
	hostLink   = "eth0"
)

// firstHost is the last byte of the first host's address.
const firstHost = 10

// maxHosts keeps every address of a lab inside its /24.
const maxHosts = 200

// nowhere is a station that no lab has: what is sent there is lost.
var nowhere = net.HardwareAddr{0x02, 0xc1, 0xff, 0xff, 0xff, 0xff}

// short is a name of six letters for the lab, for links and cgroups: unique
// to directory and name, and known without any state.
func (l *Lab) short() string {
	hash := fnv.New32a()
	hash.Write([]byte(l.dir))
	return fmt.Sprintf("%06x", hash.Sum32()&0xffffff)
}

// link is the machine's own end of the cable to the lab's switch.
func (l *Lab) link() string { return "clab-" + l.short() }

// port is the switch's end of a host's cable.
func (h *Host) port() string { return fmt.Sprintf("h%d", h.Index) }

// hostMAC derives a host's hardware address from its IP address, so that
// neighbours' tables stay right over a restart.
func hostMAC(address netip.Addr) string {
	ip := address.As4()
	return fmt.Sprintf("02:c1:%02x:%02x:%02x:%02x", ip[0], ip[1], ip[2], ip[3])
}

// secondAddress derives a host's IPv6 address from its other one: the lab's hosts
// share fd00:c1ab:x:y::/64.
func secondAddress(address netip.Addr) netip.Addr {
	ip := address.As4()
	return netip.AddrFrom16([16]byte{0xfd, 0x00, 0xc1, 0xab, 0, ip[1], 0, ip[2], 15: ip[3]})
}

// freeSubnet chooses a /24 that overlaps nothing in use.
func freeSubnet(used []netip.Prefix) (netip.Prefix, error) {
	for second := byte(210); second < 240; second++ {
		for third := range 256 {
			candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, second, byte(third), 0}), 24)
			free := true
			for _, prefix := range used {
				free = free && !prefix.Overlaps(candidate)
			}
			if free {
				return candidate, nil
			}
		}
	}
	return netip.Prefix{}, errors.New("no free subnet between 10.210.0.0 and 10.239.255.255")
}

// usedPrefixes are the networks that the machine has addresses in or routes
// to, the default route apart.
func usedPrefixes() ([]netip.Prefix, error) {
	var used []netip.Prefix
	add := func(network *net.IPNet) {
		if network == nil {
			return
		}
		address, ok := netip.AddrFromSlice(network.IP.To4())
		ones, _ := network.Mask.Size()
		if ok && ones > 0 {
			used = append(used, netip.PrefixFrom(address, ones).Masked())
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, address := range addresses {
		add(address.IPNet)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, route := range routes {
		add(route.Dst)
	}
	return used, nil
}

// makeSwitch makes sure of the lab's switch: a bridge for each link in a network
// namespace that a mount on the switch file keeps alive, and the machine's cable
// to the first.
func (l *Lab) makeSwitch() error {
	if _, err := netlink.LinkByName(l.link()); err == nil {
		if ns, err := netns.GetFromPath(l.switchFile()); err == nil {
			return ns.Close()
		}
	}
	if err := l.removeSwitch(); err != nil {
		return err
	}
	if err := os.WriteFile(l.switchFile(), nil, 0o600); err != nil {
		return fmt.Errorf("create switch: %w", err)
	}
	if err := newNetworkNamespace(l.switchFile()); err != nil {
		return fmt.Errorf("create switch: %w", err)
	}
	err := l.inSwitch(func(ns netns.NsHandle, handle *netlink.Handle) error {
		for link := range l.Links {
			bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName(link)}}
			if err := errors.Join(handle.LinkAdd(bridge), handle.LinkSetUp(bridge)); err != nil {
				return fmt.Errorf("add bridge: %w", err)
			}
		}
		bridge, err := handle.LinkByName(bridgeName(0))
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		cable := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: l.link()},
			PeerName:      uplinkName,
			PeerNamespace: netlink.NsFd(ns),
		}
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("add link to the machine: %w", err)
		}
		uplink, err := handle.LinkByName(uplinkName)
		if err != nil {
			return fmt.Errorf("find uplink: %w", err)
		}
		if err := handle.LinkSetMaster(uplink, bridge); err != nil {
			return fmt.Errorf("plug the machine in: %w", err)
		}
		return handle.LinkSetUp(uplink)
	})
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(l.link())
	if err != nil {
		return fmt.Errorf("find link: %w", err)
	}
	bits, _ := l.bits()
	address, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", l.Gateway, bits))
	if err != nil {
		return fmt.Errorf("parse gateway: %w", err)
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("set the machine's address: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link up: %w", err)
	}
	if l.Links > 1 {
		return l.makeRouter()
	}
	return nil
}

// removeSwitch removes everything makeSwitch made. It finds nothing to do
// when there is nothing.
func (l *Lab) removeSwitch() error {
	if link, err := netlink.LinkByName(l.link()); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("remove link: %w", err)
		}
	}
	for {
		err := unix.Unmount(l.switchFile(), unix.MNT_DETACH)
		if err != nil {
			if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove switch: %w", err)
			}
			break // not, or no longer, a mount point
		}
	}
	if err := os.Remove(l.switchFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove switch: %w", err)
	}
	return nil
}

// newNetworkNamespace makes a network namespace and binds it to a file.
func newNetworkNamespace(file string) error {
	result := make(chan error)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, and the
		// namespace with it, but for the mount.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("unshare network: %w", err)
			return
		}
		result <- unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, "")
	}()
	return <-result
}

// inSwitch runs f with the switch's namespace and a netlink handle inside it.
func (l *Lab) inSwitch(f func(netns.NsHandle, *netlink.Handle) error) error {
	ns, err := netns.GetFromPath(l.switchFile())
	if err != nil {
		return fmt.Errorf("open switch: %w", err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open switch: %w", err)
	}
	defer handle.Close()
	return f(ns, handle)
}

// plug lays the cable between the switch and the network namespace of pid.
func (h *Host) plug(pid int) error {
	mac, err := net.ParseMAC(h.MAC)
	if err != nil {
		return fmt.Errorf("parse hardware address: %w", err)
	}
	return h.lab.inSwitch(func(_ netns.NsHandle, handle *netlink.Handle) error {
		if old, err := handle.LinkByName(h.port()); err == nil {
			if err := handle.LinkDel(old); err != nil {
				return fmt.Errorf("remove old cable: %w", err)
			}
		}
		bridge, err := handle.LinkByName(bridgeName(h.on()))
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		cable := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: h.port(), MasterIndex: bridge.Attrs().Index},
			PeerName:         hostLink,
			PeerNamespace:    netlink.NsPid(pid),
			PeerHardwareAddr: mac,
		}
		if err := handle.LinkAdd(cable); err != nil {
			return fmt.Errorf("add cable: %w", err)
		}
		if h.lab.isCut(h.Name, "") {
			return nil
		}
		return handle.LinkSetUp(cable)
	})
}

// setPort takes the switch's end of the host's cable up or down.
func (h *Host) setPort(up bool) error {
	return h.lab.inSwitch(func(_ netns.NsHandle, handle *netlink.Handle) error {
		link, err := handle.LinkByName(h.port())
		if err != nil {
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				return nil // the host is off; plug knows about the cut
			}
			return fmt.Errorf("find cable: %w", err)
		}
		if up {
			return handle.LinkSetUp(link)
		}
		return handle.LinkSetDown(link)
	})
}

// setPath opens or closes the path to another host. It is closed with a
// permanent neighbour that does not exist: packets are lost in silence, as
// they are when a cable breaks somewhere on the way.
func (h *Host) setPath(to *Host, open bool) error {
	process, running := h.process()
	if !running {
		return nil // started later, it gets its cuts then
	}
	ns, err := netns.GetFromPid(process.PID)
	if err != nil {
		return fmt.Errorf("open network of %s: %w", h.Name, err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open network of %s: %w", h.Name, err)
	}
	defer handle.Close()
	link, err := handle.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("find link of %s: %w", h.Name, err)
	}
	address, err := netip.ParseAddr(to.Address)
	if err != nil {
		return fmt.Errorf("read address of %s: %w", to.Name, err)
	}
	ways := map[int]netip.Addr{netlink.FAMILY_V4: address}
	if hasIPv6() {
		ways[netlink.FAMILY_V6] = secondAddress(address)
	}
	for family, ip := range ways {
		neighbour := &netlink.Neigh{
			LinkIndex:    link.Attrs().Index,
			Family:       family,
			State:        netlink.NUD_PERMANENT,
			IP:           ip.AsSlice(),
			HardwareAddr: nowhere,
		}
		if !open {
			err = handle.NeighSet(neighbour)
		} else if err = handle.NeighDel(neighbour); errors.Is(err, unix.ENOENT) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("change path from %s to %s: %w", h.Name, to.Name, err)
		}
	}
	return nil
}

// hasIPv6 tells whether the machine's kernel, and so its hosts', speaks IPv6.
func hasIPv6() bool { return exists("/proc/net/if_inet6") }

func (l *Lab) isCut(a, b string) bool {
	for _, cut := range l.Cuts {
		if cut.A == a && cut.B == b || b != "" && cut.A == b && cut.B == a {
			return true
		}
	}
	return false
}

// Cut takes down host a's link, or only the path between a and b when b is
// not empty. It lasts, over restarts too, until Heal.
func (s *Store) Cut(name, a, b string) error {
	return s.change(name, func(lab *Lab) error {
		hosts, err := lab.ends(a, b)
		if err != nil {
			return err
		}
		if lab.isCut(a, b) {
			return nil
		}
		lab.Cuts = append(lab.Cuts, Cut{A: a, B: b})
		if err := lab.save(); err != nil {
			return err
		}
		return applyCut(hosts, false)
	})
}

// Heal undoes Cut: that of a's link, that between a and b, or all of them
// when a is empty.
func (s *Store) Heal(name, a, b string) error {
	return s.change(name, func(lab *Lab) error {
		var keep []Cut
		for _, cut := range lab.Cuts {
			matches := a == "" || cut == Cut{a, b} || b != "" && cut == Cut{b, a}
			if !matches {
				keep = append(keep, cut)
				continue
			}
			hosts, err := lab.ends(cut.A, cut.B)
			if err != nil {
				return err
			}
			if err := applyCut(hosts, true); err != nil {
				return err
			}
		}
		if len(keep) == len(lab.Cuts) && a != "" {
			return fmt.Errorf("lab %s: nothing is cut there: %s", name, strings.TrimSpace(a+" "+b))
		}
		lab.Cuts = keep
		return lab.save()
	})
}

// ends looks the one or two hosts of a cut up.
func (l *Lab) ends(a, b string) ([]*Host, error) {
	if a == b {
		return nil, fmt.Errorf("a host cannot be cut from itself: %s", a)
	}
	names := []string{a}
	if b != "" {
		names = append(names, b)
	}
	var hosts []*Host
	for _, name := range names {
		host, err := l.Host(name)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, host)
	}
	if b != "" && hosts[0].on() != hosts[1].on() {
		return nil, fmt.Errorf("%s and %s are on different links: cut one of them off, or hosts of one link", a, b)
	}
	return hosts, nil
}

func applyCut(hosts []*Host, open bool) error {
	if len(hosts) == 1 {
		return hosts[0].setPort(open)
	}
	return errors.Join(hosts[0].setPath(hosts[1], open), hosts[1].setPath(hosts[0], open))
}
