package netnstest

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Cable connects two network namespaces. In the one, its end has a name and maybe
// an address ("": none, and it is down); in the other it is eth0, has an address,
// and leads to a gateway. Addresses have a prefix length.
func Cable(ns netns.NsHandle, name, address string, other netns.NsHandle, otherAddress, gateway string) error {
	err := Within(ns, func() error {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(other)}
		if err := netlink.LinkAdd(link); err != nil || address == "" {
			return err
		}
		return Address(link, address)
	})
	if err != nil {
		return fmt.Errorf("lay cable %s: %w", name, err)
	}
	err = Within(other, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := errors.Join(Up("lo"), Address(link, otherAddress)); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)})
	})
	if err != nil {
		return fmt.Errorf("plug cable %s in: %w", name, err)
	}
	return nil
}

// Plug puts a link of the current namespace on a bridge there, as pods' are: what
// comes from it may go back to it.
func Plug(name, bridge string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(link, master), netlink.LinkSetHairpin(link, true), netlink.LinkSetUp(link))
}

// AddressAndRoute gives a link of the current namespace an IPv6 address that is
// usable at once, and a route to what is behind a gateway; "": none.
func AddressAndRoute(name, address, gateway string, to *net.IPNet) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrAdd(link, a); err != nil || gateway == "" {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Gw: net.ParseIP(gateway)})
}

// Address gives a link of the current namespace an address, and sets it up.
func Address(link netlink.Link, text string) error {
	a, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
}

// Up sets a link of the current namespace up.
func Up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}
