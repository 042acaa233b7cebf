package network

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"clusterctl/hostconfig"
)

const (
	overlayID = 1
)

// overlayOverhead is what VXLAN adds to a packet: outer IP and UDP headers, its
// own, and the inner Ethernet header.
func overlayOverhead(outer family) int {
	if outer == ipv6 {
		return 70
	}
	return 50
}

// reconcileOverlay makes the VXLAN device and what leads to the other nodes'
// pods the way the picture has it, changing only what is not. It returns the
// device's MTU, which is the pods' as well: whatever way their packets go, now
// or once a node joins that is reached over the overlay only, they fit.
func reconcileOverlay(want picture, always bool, log *slog.Logger) (mtu int, err error) {
	uplink, err := findUplink(want.Address[want.Outer])
	if err != nil {
		return 0, err
	}
	mtu = uplink.Attrs().MTU - overlayOverhead(want.Outer)
	link, err := reconcileDevice(want.Address[want.Outer], uplink, mtu, log)
	if err != nil {
		return 0, err
	}
	errs := []error{reconcileForwarding(link, want.Outer, want.Peers)}
	for _, f := range families {
		if f == ipv6 && !hasIPv6() {
			if want.PodCIDR[f].IsValid() {
				errs = append(errs, errors.New("pods are to have IPv6 addresses, and the kernel does not speak IPv6"))
			}
			continue
		}
		errs = append(errs,
			reconcileGate(link, f, want.PodCIDR[f]),
			reconcileNeighbours(link, f, want.overlaid(f)),
			reconcileRoutes(f, wantedRoutes(want, f, link, always)))
	}
	return mtu, errors.Join(errs...)
}

// findUplink returns the link that has the node's address.
func findUplink(address netip.Addr) (netlink.Link, error) {
	addresses, err := netlink.AddrList(nil, int(familyOf(address)))
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if a.IP.Equal(address.AsSlice()) {
			link, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("find uplink: %w", err)
			}
			return link, nil
		}
	}
	return nil, fmt.Errorf("no link has the node's address %s", address)
}

// reconcileDevice makes sure of the VXLAN device. One with other parameters,
// which cannot be changed, is replaced.
func reconcileDevice(address netip.Addr, uplink netlink.Link, mtu int, log *slog.Logger) (netlink.Link, error) {
	device := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{
			Name:         OverlayLink,
			MTU:          mtu,
			HardwareAddr: overlayMAC(address),
		},
		VxlanId:      overlayID,
		VtepDevIndex: uplink.Attrs().Index,
		SrcAddr:      address.AsSlice(),
		Port:         hostconfig.PortVXLAN,
		Learning:     false,
	}
	link, err := netlink.LinkByName(OverlayLink)
	if err == nil && !sameDevice(link, device) {
		log.Info("replacing the overlay device, whose parameters have changed", "link", OverlayLink)
		if err := netlink.LinkDel(link); err != nil {
			return nil, fmt.Errorf("remove overlay device: %w", err)
		}
		link, err = nil, netlink.LinkNotFoundError{}
	}
	if err != nil {
		if !errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil, fmt.Errorf("find overlay device: %w", err)
		}
		if err := netlink.LinkAdd(device); err != nil {
			return nil, fmt.Errorf("add overlay device: %w", err)
		}
		if link, err = netlink.LinkByName(OverlayLink); err != nil {
			return nil, fmt.Errorf("find overlay device: %w", err)
		}
	}
	attrs := link.Attrs()
	if attrs.MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("set MTU of overlay device: %w", err)
		}
	}
	if !bytes.Equal(attrs.HardwareAddr, device.HardwareAddr) {
		if err := netlink.LinkSetHardwareAddr(link, device.HardwareAddr); err != nil {
			return nil, fmt.Errorf("set address of overlay device: %w", err)
		}
	}
	if attrs.Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("set overlay device up: %w", err)
		}
	}
	// Packets to a service's node port may come in on one link and be
	// answered by a pod over this one.
	if err := writeSysctl("net/ipv4/conf/"+OverlayLink+"/rp_filter", "2"); err != nil {
		return nil, err
	}
	return link, nil
}

func sameDevice(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.VtepDevIndex == want.VtepDevIndex &&
		have.SrcAddr.Equal(want.SrcAddr) && have.Port == want.Port && !have.Learning
}

// reconcileGate gives the device its one address of a family, from which this
// host's own programs speak to pods elsewhere. An invalid prefix wants none.
func reconcileGate(link netlink.Link, f family, cidr netip.Prefix) error {
	addresses, err := netlink.AddrList(link, int(f))
	if err != nil {
		return fmt.Errorf("list addresses of overlay: %w", err)
	}
	var wanted *net.IPNet
	if cidr.IsValid() {
		wanted = ipNet(netip.PrefixFrom(gate(cidr), gate(cidr).BitLen()))
	}
	for _, address := range addresses {
		if address.IP.IsLinkLocalUnicast() {
			continue // the kernel's own
		}
		if wanted != nil && address.IPNet.String() == wanted.String() {
			wanted = nil
			continue
		}
		if err := netlink.AddrDel(link, &address); err != nil {
			return fmt.Errorf("remove address of overlay: %w", err)
		}
	}
	if wanted == nil {
		return nil
	}
	gate := &netlink.Addr{IPNet: wanted}
	if f == ipv6 {
		gate.Flags = unix.IFA_F_NODAD // nobody else can have it; until that is certain it could not be used
	}
	if err := netlink.AddrAdd(link, gate); err != nil {
		return fmt.Errorf("set address of overlay: %w", err)
	}
	return nil
}

// reconcileForwarding tells the device which node has which hardware address.
func reconcileForwarding(link netlink.Link, outer family, peers []peer) error {
	missing := map[string]peer{}
	for _, p := range peers {
		missing[overlayMAC(p.Address[outer]).String()+" "+p.Address[outer].String()] = p
	}
	entries, err := netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list forwarding of overlay: %w", err)
	}
	for _, entry := range entries {
		key := entry.HardwareAddr.String() + " " + entry.IP.String()
		if _, ok := missing[key]; ok {
			delete(missing, key)
			continue
		}
		if entry.IP == nil {
			continue // the kernel's own, for multicast
		}
		if err := netlink.NeighDel(&entry); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove forwarding to %s: %w", entry.IP, err)
		}
	}
	for _, p := range missing {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex:    link.Attrs().Index,
			Family:       unix.AF_BRIDGE,
			Flags:        netlink.NTF_SELF,
			State:        netlink.NUD_PERMANENT,
			IP:           p.Address[outer].AsSlice(),
			HardwareAddr: overlayMAC(p.Address[outer]),
		})
		if err != nil {
			return fmt.Errorf("forward to %s: %w", p.Address[outer], err)
		}
	}
	return nil
}

// overlaid are the peers that have pods of a family, by the address of their end
// of the overlay.
func (want picture) overlaid(f family) map[netip.Addr]net.HardwareAddr {
	ends := map[netip.Addr]net.HardwareAddr{}
	for _, p := range want.Peers {
		if p.PodCIDR[f].IsValid() && want.PodCIDR[f].IsValid() {
			ends[gate(p.PodCIDR[f])] = overlayMAC(p.Address[want.Outer])
		}
	}
	return ends
}

// reconcileNeighbours tells the host the hardware address of every node's end
// of the overlay, so that nobody has to ask. It changes ends.
func reconcileNeighbours(link netlink.Link, f family, ends map[netip.Addr]net.HardwareAddr) error {
	neighbours, err := netlink.NeighList(link.Attrs().Index, int(f))
	if err != nil {
		return fmt.Errorf("list neighbours of overlay: %w", err)
	}
	for _, neighbour := range neighbours {
		ip, _ := netip.AddrFromSlice(neighbour.IP)
		if mac, ok := ends[ip.Unmap()]; ok && neighbour.State&netlink.NUD_PERMANENT != 0 && bytes.Equal(mac, neighbour.HardwareAddr) {
			delete(ends, ip.Unmap())
			continue
		}
		// A packet to a service that no rule took (one of a connection that is over)
		// has its address asked for in vain, which the kernel keeps for good.
		vain := neighbour.State == netlink.NUD_FAILED
		if !vain && neighbour.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != netlink.NUD_PERMANENT {
			continue // comes and goes by itself
		}
		if err := netlink.NeighDel(&neighbour); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove neighbour %s: %w", neighbour.IP, err)
		}
	}
	for ip, mac := range ends {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex:    link.Attrs().Index,
			Family:       int(f),
			State:        netlink.NUD_PERMANENT,
			IP:           ip.AsSlice(),
			HardwareAddr: mac,
		})
		if err != nil {
			return fmt.Errorf("set neighbour %s: %w", ip, err)
		}
	}
	return nil
}

// removeLinks removes the bridge and the overlay device, and with them their
// routes and neighbours.
func removeLinks() error {
	var errs []error
	for _, name := range []string{OverlayLink, BridgeLink} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			if !errors.As(err, &netlink.LinkNotFoundError{}) {
				errs = append(errs, fmt.Errorf("find link %s: %w", name, err))
			}
			continue
		}
		if err := netlink.LinkDel(link); err != nil {
			errs = append(errs, fmt.Errorf("remove link %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
