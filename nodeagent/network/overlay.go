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
	// overlayOverhead is what VXLAN adds to a packet: outer IP and UDP
	// headers, its own, and the inner Ethernet header.
	overlayOverhead = 50
)

// reconcileOverlay makes the VXLAN device and what leads to the other nodes'
// pods the way the picture has it, changing only what is not. It returns the
// device's MTU, which is the pods' as well.
func reconcileOverlay(want picture, log *slog.Logger) (mtu int, err error) {
	uplink, err := findUplink(want.Address)
	if err != nil {
		return 0, err
	}
	mtu = uplink.Attrs().MTU - overlayOverhead
	link, err := reconcileDevice(want, uplink, mtu, log)
	if err != nil {
		return 0, err
	}
	return mtu, errors.Join(
		reconcileGate(link, gate(want.PodCIDR)),
		reconcileForwarding(link, want.Peers),
		reconcileNeighbours(link, want.Peers),
		reconcileRoutes(link, want),
	)
}

// findUplink returns the link that has the node's address.
func findUplink(address netip.Addr) (netlink.Link, error) {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
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
func reconcileDevice(want picture, uplink netlink.Link, mtu int, log *slog.Logger) (netlink.Link, error) {
	device := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{
			Name:         OverlayLink,
			MTU:          mtu,
			HardwareAddr: overlayMAC(want.Address),
		},
		VxlanId:      overlayID,
		VtepDevIndex: uplink.Attrs().Index,
		SrcAddr:      want.Address.AsSlice(),
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

// reconcileGate gives the device its one address, from which this host's own
// programs speak to pods elsewhere.
func reconcileGate(link netlink.Link, want netip.Addr) error {
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of overlay: %w", err)
	}
	wanted := hostNet(want)
	for _, address := range addresses {
		if address.IPNet.String() == wanted.String() {
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
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: wanted}); err != nil {
		return fmt.Errorf("set address of overlay: %w", err)
	}
	return nil
}

// reconcileForwarding tells the device which node has which hardware address.
func reconcileForwarding(link netlink.Link, peers []peer) error {
	missing := map[string]peer{}
	for _, p := range peers {
		missing[overlayMAC(p.Address).String()+" "+p.Address.String()] = p
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
			IP:           p.Address.AsSlice(),
			HardwareAddr: overlayMAC(p.Address),
		})
		if err != nil {
			return fmt.Errorf("forward to %s: %w", p.Address, err)
		}
	}
	return nil
}

// reconcileNeighbours tells the host the hardware address of every node's end
// of the overlay, so that nobody has to ask.
func reconcileNeighbours(link netlink.Link, peers []peer) error {
	missing := map[string]peer{}
	for _, p := range peers {
		missing[gate(p.PodCIDR).String()+" "+overlayMAC(p.Address).String()] = p
	}
	neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list neighbours of overlay: %w", err)
	}
	for _, neighbour := range neighbours {
		key := neighbour.IP.String() + " " + neighbour.HardwareAddr.String()
		if _, ok := missing[key]; ok && neighbour.State&netlink.NUD_PERMANENT != 0 {
			delete(missing, key)
			continue
		}
		if neighbour.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != netlink.NUD_PERMANENT {
			continue // comes and goes by itself
		}
		if err := netlink.NeighDel(&neighbour); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove neighbour %s: %w", neighbour.IP, err)
		}
	}
	for _, p := range missing {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex:    link.Attrs().Index,
			Family:       netlink.FAMILY_V4,
			State:        netlink.NUD_PERMANENT,
			IP:           gate(p.PodCIDR).AsSlice(),
			HardwareAddr: overlayMAC(p.Address),
		})
		if err != nil {
			return fmt.Errorf("set neighbour %s: %w", gate(p.PodCIDR), err)
		}
	}
	return nil
}

// reconcileRoutes leads to every other node's pods through its end of the
// overlay. Services' addresses are led there as well, so that hosts without a
// default route reach services, and with a source that every pod and node has
// a way back to. All routes over the device are ours.
func reconcileRoutes(link netlink.Link, want picture) error {
	missing := map[string]*netlink.Route{}
	add := func(to netip.Prefix, via net.IP, flags int) {
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index,
			Scope:     netlink.SCOPE_LINK,
			Dst:       &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)},
			Gw:        via,
			Src:       gate(want.PodCIDR).AsSlice(),
			Flags:     flags,
		}
		if via != nil {
			route.Scope = netlink.SCOPE_UNIVERSE
		}
		missing[routeKey(route)] = route
	}
	for _, p := range want.Peers {
		add(p.PodCIDR, gate(p.PodCIDR).AsSlice(), int(netlink.FLAG_ONLINK))
	}
	if want.ServiceCIDR.IsValid() {
		add(want.ServiceCIDR, nil, 0)
	}
	filter := &netlink.Route{LinkIndex: link.Attrs().Index}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes of overlay: %w", err)
	}
	for _, route := range routes {
		key := routeKey(&route)
		if _, ok := missing[key]; ok {
			delete(missing, key)
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", key, err)
		}
	}
	for key, route := range missing {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route %s: %w", key, err)
		}
	}
	return nil
}

// routeKey tells routes over one device apart.
func routeKey(route *netlink.Route) string {
	return fmt.Sprintf("to %s via %s from %s", route.Dst, route.Gw, route.Src)
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

func hostNet(address netip.Addr) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}
}
