package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/netnstest"
	"clusterctl/nodeagent/policy/policytest"
)

// linkMTU is that of the lab's links.
const linkMTU = 1500

// podMTU leaves room for VXLAN, and for the addresses that it goes between.
func (w *familyWorld) podMTU() int {
	if w.families == "6" {
		return linkMTU - 70
	}
	return linkMTU - 50
}

// testLinks sends packets of the full size, and much data, between the pods of
// every two nodes: those that share a link, and those that do not.
func (w *familyWorld) testLinks(t *testing.T) {
	podMTU := w.podMTU()
	for _, from := range w.pods {
		err := netnstest.Within(w.networks[from.Status.PodIP], func() error {
			link, err := net.InterfaceByName("eth0")
			if err == nil && link.MTU != podMTU {
				err = fmt.Errorf("its MTU is %d, want %d", link.MTU, podMTU)
			}
			return err
		})
		if err != nil {
			t.Errorf("pod %s: %v", from.Name, err)
		}
		for _, to := range w.pods {
			if to == from {
				continue
			}
			for _, ip := range policytest.Addresses(to) {
				what := fmt.Sprintf("from %s to %s at %s", from.Name, to.Name, ip)
				eventually(t, time.Minute, "a packet of the full size "+what, func(context.Context) error { return w.ping(from, ip, podMTU) })
				if err := w.ping(from, ip, podMTU+1); !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("a packet that is too large %s: got %v", what, err)
				}
				if err := w.bulk(from, ip); err != nil {
					t.Errorf("much data %s: %v", what, err)
				}
			}
		}
	}
}

// ping sends an echo request of a size, headers included, that no router may
// take apart, and waits for the answer.
func (w *familyWorld) ping(from *v1.Pod, to netip.Addr, size int) error {
	network, any, request, answer := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	level, option, whole, header := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, ipv4.HeaderLen
	if to.Is6() {
		network, any, request, answer = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
		level, option, whole, header = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, ipv6.HeaderLen
	}
	const echoHeader = 8
	body := make([]byte, size-header-echoHeader)
	_, _ = rand.Read(body)
	var conn net.PacketConn
	err := netnstest.Within(w.networks[from.Status.PodIP], func() (err error) {
		conn, err = net.ListenPacket(network, any)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, whole) }); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: 1, Seq: 1, Data: body}}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return err
	}
	buffer := make([]byte, 2*linkMTU)
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		got, err := icmp.ParseMessage(request.Protocol(), buffer[:n])
		if err != nil {
			return err
		}
		if echo, ok := got.Body.(*icmp.Echo); ok && got.Type == answer && bytes.Equal(echo.Data, body) {
			return nil
		}
	}
}

// bulk has much data echoed by a pod.
func (w *familyWorld) bulk(from *v1.Pod, to netip.Addr) error {
	conn, err := policytest.Dial(w.networks[from.Status.PodIP], "tcp", netip.AddrPortFrom(to, policytest.Ports[0]).String(), 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	sent := make([]byte, 4<<20)
	_, _ = rand.Read(sent)
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		written <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return errors.New("what came back is not what was sent")
	}
	return <-written
}
