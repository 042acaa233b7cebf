//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A lab's hosts hang on one link, whose network is the lab's subnet, or in turn
// on two, with half of it each. Between two the switch's namespace is the router,
// and every host's; the machine is on the first.

// routerHost is the last byte of the router's address on the first link.
const routerHost = 2

// on is the link that the host hangs on, counted from 0.
func (h *Host) on() int { return h.Index % h.lab.Links }

func bridgeName(link int) string { return fmt.Sprintf("br%d", link) }

// addressOn is the nth address on a link.
func addressOn(subnet netip.Prefix, link, n int) netip.Addr {
	bytes := subnet.Addr().As4()
	bytes[3] = byte(link*128 + n)
	return netip.AddrFrom4(bytes)
}

// bits are how long the prefixes of a link's networks are, of IPv4 and IPv6.
func (l *Lab) bits() (first, second int) {
	if l.Links == 1 {
		return 24, 64
	}
	return 25, 128 - 7
}

// describeNetwork says which addresses and ways a host has.
func (h *Host) describeNetwork(spec *hostSpec) error {
	address, err := netip.ParseAddr(h.Address)
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	subnet, err := netip.ParsePrefix(h.lab.Subnet)
	if err != nil {
		return fmt.Errorf("parse subnet: %w", err)
	}
	first, second := h.lab.bits()
	spec.Address, spec.Gateway = netip.PrefixFrom(address, first).String(), h.lab.Gateway
	if hasIPv6() {
		spec.Second = netip.PrefixFrom(secondAddress(address), second).String()
	}
	if h.lab.Links == 1 {
		return nil
	}
	router := addressOn(subnet, h.on(), routerHost)
	spec.Gateway = router.String()
	if hasIPv6() {
		spec.SecondWay = secondAddress(router).String()
	}
	return nil
}

// makeRouter has the switch lead packets between the lab's two links, and the
// machine's to the second.
func (l *Lab) makeRouter() error {
	subnet, err := netip.ParsePrefix(l.Subnet)
	if err != nil {
		return fmt.Errorf("parse subnet: %w", err)
	}
	first, second := l.bits()
	err = l.inSwitch(func(ns netns.NsHandle, handle *netlink.Handle) error {
		for link := range l.Links {
			bridge, err := handle.LinkByName(bridgeName(link))
			if err != nil {
				return fmt.Errorf("find bridge: %w", err)
			}
			router := addressOn(subnet, link, routerHost)
			addresses := []netip.Prefix{netip.PrefixFrom(router, first)}
			if hasIPv6() {
				addresses = append(addresses, netip.PrefixFrom(secondAddress(router), second))
			}
			for _, a := range addresses {
				address, err := netlink.ParseAddr(a.String())
				if err != nil {
					return fmt.Errorf("parse the router's address: %w", err)
				}
				if a.Addr().Is6() {
					address.Flags = unix.IFA_F_NODAD // nobody else has it
				}
				if err := handle.AddrAdd(bridge, address); err != nil {
					return fmt.Errorf("set the router's address: %w", err)
				}
			}
		}
		return forward(ns)
	})
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(l.link())
	if err != nil {
		return fmt.Errorf("find link: %w", err)
	}
	way := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: addressOn(subnet, 0, routerHost).AsSlice()}
	if way.Dst, err = netlink.ParseIPNet(netip.PrefixFrom(addressOn(subnet, 1, 0), first).String()); err != nil {
		return fmt.Errorf("parse network of the second link: %w", err)
	}
	if err := netlink.RouteReplace(way); err != nil {
		return fmt.Errorf("set the machine's route to the second link: %w", err)
	}
	return nil
}

// forward has the kernel forward packets in a network namespace.
func forward(ns netns.NsHandle) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			result <- fmt.Errorf("enter switch: %w", err)
			return
		}
		err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
		if hasIPv6() {
			err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
		}
		if err != nil {
			err = fmt.Errorf("forward packets: %w", err)
		}
		result <- err
	}()
	return <-result
}
