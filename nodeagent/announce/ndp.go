package announce

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// allNodes is where claims go to.
var allNodes = netip.MustParseAddr("ff02::1")

// ndpSpeaker is the speaker of IPv6.
type ndpSpeaker struct {
	link *net.Interface
	conn *ndp.Conn

	mu     sync.Mutex
	groups map[netip.Addr]bool // joined: those that questions are sent to
}

func newNDPSpeaker(link *net.Interface) (speaker, error) {
	conn, _, err := ndp.Listen(link, ndp.LinkLocal)
	if err != nil {
		return nil, fmt.Errorf("open a socket for NDP on %s: %w", link.Name, err)
	}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeNeighborSolicitation)
	filter.Accept(ipv6.ICMPTypeNeighborAdvertisement)
	err = errors.Join(conn.SetICMPFilter(&filter), conn.SetControlMessage(ipv6.FlagHopLimit, true), conn.JoinGroup(allNodes))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("set up the socket for NDP on %s: %w", link.Name, err)
	}
	return &ndpSpeaker{link: link, conn: conn, groups: map[netip.Addr]bool{}}, nil
}

func (s *ndpSpeaker) advertise(a, to netip.Addr, asked bool) error {
	return s.conn.WriteTo(&ndp.NeighborAdvertisement{
		Solicited: asked, Override: true, TargetAddress: a,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: s.link.HardwareAddr}},
	}, nil, to)
}

func (s *ndpSpeaker) claim(a netip.Addr) error {
	if err := s.join(a); err != nil {
		return err
	}
	if err := s.advertise(a, allNodes, false); err != nil {
		return fmt.Errorf("claim %s on %s: %w", a, s.link.Name, err)
	}
	return nil
}

// join has questions about an address come here. The group is never left: it
// may be another address's too, and costs nothing.
func (s *ndpSpeaker) join(a netip.Addr) error {
	group, err := ndp.SolicitedNodeMulticast(a)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[group] {
		return nil
	}
	if err := s.conn.JoinGroup(group); err != nil {
		return fmt.Errorf("join %s on %s: %w", group, s.link.Name, err)
	}
	s.groups[group] = true
	return nil
}

func (s *ndpSpeaker) listen(answers func(netip.Addr) bool, heard func(netip.Addr)) error {
	for {
		message, control, from, err := s.conn.ReadFrom()
		if err != nil {
			return err
		}
		if control == nil || control.HopLimit != ndp.HopLimit {
			continue // from beyond this link
		}
		switch m := message.(type) {
		case *ndp.NeighborSolicitation:
			if !answers(m.TargetAddress) {
				continue
			}
			to := from.WithZone("")
			if to.IsUnspecified() { // somebody would like to have the address
				to = allNodes
			}
			_ = s.advertise(m.TargetAddress, to, to != allNodes) // asked for again if it fails
		case *ndp.NeighborAdvertisement:
			heard(m.TargetAddress)
		}
	}
}

func (s *ndpSpeaker) close() { _ = s.conn.Close() }
