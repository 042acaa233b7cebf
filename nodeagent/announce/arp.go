package announce

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
)

// speaker says and hears on one link who has which address of one family.
type speaker interface {
	// claim tells all of the link that this node has an address.
	claim(a netip.Addr) error
	// listen calls answer for each question about an address, and heard for each
	// claim of somebody else, until the speaker is closed or the link fails.
	listen(answers func(a netip.Addr) bool, heard func(a netip.Addr)) error
	close()
}

// arpSpeaker is the speaker of IPv4.
type arpSpeaker struct {
	link   *net.Interface
	client *arp.Client
}

func newARPSpeaker(link *net.Interface) (speaker, error) {
	client, err := arp.Dial(link)
	if err != nil {
		return nil, fmt.Errorf("open a socket for ARP on %s: %w", link.Name, err)
	}
	return &arpSpeaker{link: link, client: client}, nil
}

// claim sends both forms of a gratuitous ARP: some hosts believe the one, some
// the other.
func (s *arpSpeaker) claim(a netip.Addr) error {
	for _, form := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		packet, err := arp.NewPacket(form, s.link.HardwareAddr, a, ethernet.Broadcast, a)
		if err == nil {
			err = s.client.WriteTo(packet, ethernet.Broadcast)
		}
		if err != nil {
			return fmt.Errorf("claim %s on %s: %w", a, s.link.Name, err)
		}
	}
	return nil
}

func (s *arpSpeaker) listen(answers func(netip.Addr) bool, heard func(netip.Addr)) error {
	for {
		packet, _, err := s.client.Read()
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
			continue // a packet that is cut short
		case err != nil:
			return err
		case bytes.Equal(packet.SenderHardwareAddr, s.link.HardwareAddr):
			continue
		}
		if packet.Operation == arp.OperationRequest && packet.SenderIP != packet.TargetIP && answers(packet.TargetIP) {
			// An answer that cannot be sent is asked for again.
			_ = s.client.Reply(packet, s.link.HardwareAddr, packet.TargetIP)
		}
		heard(packet.SenderIP)
	}
}

func (s *arpSpeaker) close() { _ = s.client.Close() }
