package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes on links that are not ours. `ip route` shows
// it as proto 204.
const routeProtocol = 204

// wantedRoutes lead to every other node's pods: to nodes that share a link with
// this one straight over that link, to others through their end of the overlay;
// always means that all are led through the overlay. Services' addresses are led
// to the overlay as well, so that hosts without a default route reach services,
// and with a source that every pod and node has a way back to.
func wantedRoutes(want picture, f family, overlay netlink.Link, always bool) []*netlink.Route {
	own := want.PodCIDR[f]
	if !own.IsValid() {
		return nil
	}
	var routes []*netlink.Route
	add := func(route *netlink.Route, to netip.Prefix) {
		route.Dst, route.Protocol = ipNet(to), routeProtocol
		routes = append(routes, route)
	}
	for _, p := range want.Peers {
		pods, via, from := p.PodCIDR[f], p.Address[f], want.Address[f]
		if !pods.IsValid() {
			continue
		}
		if !always && via.IsValid() && from.IsValid() {
			if link, ok := shared(via); ok {
				add(&netlink.Route{LinkIndex: link, Gw: via.AsSlice(), Src: from.AsSlice()}, pods)
				continue
			}
		}
		add(&netlink.Route{
			LinkIndex: overlay.Attrs().Index, Gw: gate(pods).AsSlice(), Src: gate(own).AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		}, pods)
	}
	for _, services := range want.Services {
		if familyOf(services.Addr()) != f {
			continue
		}
		route := &netlink.Route{LinkIndex: overlay.Attrs().Index, Src: gate(own).AsSlice()}
		if f == ipv4 {
			route.Scope = netlink.SCOPE_LINK
		}
		add(route, services)
	}
	return routes
}

// shared returns the Ethernet that the host shares with the owner of an address,
// if the host reaches it without a router.
func shared(address netip.Addr) (link int, ok bool) {
	routes, err := netlink.RouteGet(address.AsSlice())
	if err != nil || len(routes) != 1 {
		return 0, false
	}
	route := routes[0]
	if route.Gw != nil || route.Via != nil || len(route.MultiPath) > 0 || route.Type != unix.RTN_UNICAST {
		return 0, false
	}
	found, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return 0, false
	}
	// A tunnel takes packets for the addresses only that it was told of.
	attrs := found.Attrs()
	ethernet := attrs.EncapType == "ether" && attrs.Flags&net.FlagBroadcast != 0 && attrs.Flags&net.FlagPointToPoint == 0
	return route.LinkIndex, ethernet && attrs.Name != OverlayLink && attrs.Name != BridgeLink
}

// reconcileRoutes makes sure of the routes, then removes all others of ours: a
// route that goes another way now is replaced, so that its pods are never
// without one.
func reconcileRoutes(f family, wanted []*netlink.Route) error {
	have, err := ourRoutes(f)
	if err != nil {
		return err
	}
	there, keep := map[string]bool{}, map[string]bool{}
	for _, route := range have {
		there[routeKey(&route)] = true
	}
	var errs []error
	for _, route := range wanted {
		key := routeKey(route)
		keep[key] = true
		if there[key] {
			continue
		}
		err := netlink.RouteReplace(route)
		if errors.Is(err, unix.EINVAL) && f == ipv6 {
			// An end of the overlay must not lie in what is routed over another link.
			err = errors.Join(removeTo(have, route.Dst), netlink.RouteReplace(route))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("add route %s: %w", key, err))
		}
	}
	for _, route := range have {
		if key := routeKey(&route); !keep[key] {
			if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove route %s: %w", key, err))
			}
		}
	}
	return errors.Join(errs...)
}

// removeTo removes the routes to a network.
func removeTo(routes []netlink.Route, network *net.IPNet) error {
	for _, route := range routes {
		if route.Dst.String() != network.String() {
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// ourRoutes are those that bear our mark, and all of the overlay but those that
// the kernel makes for its addresses.
func ourRoutes(f family) ([]netlink.Route, error) {
	overlay := -1
	if link, err := netlink.LinkByName(OverlayLink); err == nil {
		overlay = link.Attrs().Index
	}
	all, err := netlink.RouteListFiltered(int(f), &netlink.Route{}, 0)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var ours []netlink.Route
	for _, route := range all {
		if route.Protocol == routeProtocol || route.LinkIndex == overlay && route.Protocol != unix.RTPROT_KERNEL {
			ours = append(ours, route)
		}
	}
	return ours, nil
}

// routeKey tells routes apart.
func routeKey(route *netlink.Route) string {
	return fmt.Sprintf("to %s via %s from %s over link %d", route.Dst, route.Gw, route.Src, route.LinkIndex)
}

// removeRoutes removes the routes of ours that do not go with our links.
func removeRoutes() error {
	var errs []error
	for _, f := range families {
		if f == ipv4 || hasIPv6() {
			errs = append(errs, reconcileRoutes(f, nil))
		}
	}
	return errors.Join(errs...)
}

// watchRoutes calls wake when a route of ours has gone: the kernel removes those
// of a link that somebody sets down, and does not bring them back with it.
func watchRoutes(done <-chan struct{}, wake func()) error {
	updates := make(chan netlink.RouteUpdate)
	if err := netlink.RouteSubscribe(updates, done); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	go func() {
		for update := range updates {
			if update.Type == unix.RTM_DELROUTE && update.Protocol == routeProtocol {
				wake()
			}
		}
	}()
	return nil
}
