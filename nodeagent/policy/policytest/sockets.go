package policytest

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/netnstest"
)

// Serve echoes, until the test ends, what comes to Ports of the thread's
// namespace.
func Serve(t testing.TB) error {
	for _, port := range Ports {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(int(port)))
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
	}
	packets, err := net.ListenPacket("udp", ":"+strconv.Itoa(int(Ports[0])))
	if err != nil {
		return err
	}
	t.Cleanup(func() { packets.Close() })
	go func() {
		buffer := make([]byte, 10)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(buffer[:n], from)
		}
	}()
	return nil
}

// flows counts the clients' UDP flows so far.
var flows atomic.Uint32

// Dial connects from a namespace; the caller closes the connection. Each UDP flow
// has a port of its own: the kernel, left to choose, would sometimes choose that
// of an earlier flow, which may go on whatever policies say by now.
func Dial(ns netns.NsHandle, network, to string, patience time.Duration) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: patience}
	if strings.HasPrefix(network, "udp") {
		dialer.LocalAddr = &net.UDPAddr{Port: 10000 + int(flows.Add(1)%50000)}
	}
	err = netnstest.Within(ns, func() (err error) {
		conn, err = dialer.Dial(network, to)
		return err
	})
	return conn, err
}

// Echo sends something through a connection until it comes back.
func Echo(conn net.Conn, patience time.Duration) error {
	buffer := make([]byte, 10)
	end := time.Now().Add(patience)
	for {
		soon := time.Now().Add(300 * time.Millisecond)
		if end.Before(soon) {
			soon = end
		}
		_ = conn.SetDeadline(soon)
		_, err := conn.Write([]byte("x"))
		if err == nil {
			if _, err = conn.Read(buffer); err == nil {
				return nil
			}
		}
		if !time.Now().Before(end) {
			return err
		}
	}
}

// Try makes a connection from a namespace and uses it. What fails at once is
// tried again as long as there is patience: neighbours may still be looking for
// each other.
func Try(from netns.NsHandle, c Connection, patience time.Duration) error {
	network := "tcp"
	if c.Protocol == corev1.ProtocolUDP {
		network = "udp"
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		conn, err := Dial(from, network, netip.AddrPortFrom(c.Target, c.Port).String(), max(time.Until(end), time.Millisecond))
		if err == nil {
			defer conn.Close()
			return Echo(conn, patience)
		}
		if time.Now().After(end) {
			return err
		}
	}
}
