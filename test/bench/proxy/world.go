package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"clusterctl/nodeagent/netnstest"
)

// world is a node with a client before it and pods behind it, each in a
// network namespace of its own:
//
//	client 192.0.2.2 ── 192.0.2.1 node 198.51.100.1 ── every address of 10.128.0.0/14
type world struct {
	node, client, pods netns.NsHandle
	listeners          []net.Listener
}

const (
	nodeAddress = "192.0.2.1"
	podCIDR     = "10.128.0.0/14"
	serviceCIDR = "10.96.0.0/14"
	podPort     = 8080
)

func newWorld() (*world, error) {
	w := &world{}
	for _, ns := range []*netns.NsHandle{&w.node, &w.client, &w.pods} {
		created, err := netnstest.New()
		if err != nil {
			return nil, err
		}
		*ns = created
	}
	return w, errors.Join(
		netnstest.Cable(w.node, "client", nodeAddress+"/24", w.client, "192.0.2.2/24", nodeAddress),
		netnstest.Cable(w.node, "pods", "198.51.100.1/24", w.pods, "198.51.100.2/24", "198.51.100.1"),
		netnstest.Within(w.node, func() error {
			link, err := netlink.LinkByName("pods")
			if err != nil {
				return err
			}
			_, pods, _ := net.ParseCIDR(podCIDR)
			return errors.Join(netnstest.Up("lo"), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
				netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: pods, Gw: net.ParseIP("198.51.100.2")}))
		}),
		netnstest.Within(w.pods, w.answer),
	)
}

// answer has every address of the pods answer with itself.
func (w *world) answer() error {
	link, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	_, pods, _ := net.ParseCIDR(podCIDR)
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: pods, Type: syscall.RTN_LOCAL, Table: 255, Scope: netlink.SCOPE_HOST}
	if err := netlink.RouteAdd(route); err != nil {
		return err
	}
	listener, err := net.Listen("tcp4", fmt.Sprintf(":%d", podPort))
	if err != nil {
		return err
	}
	w.listeners = append(w.listeners, listener)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
			_, _ = conn.Write([]byte(host))
			conn.Close()
		}
	}()
	return nil
}

func (w *world) close() {
	for _, l := range w.listeners {
		l.Close()
	}
	for _, ns := range []netns.NsHandle{w.node, w.client, w.pods} {
		ns.Close()
	}
}

// start runs a program on the node.
func (w *world) start(command *exec.Cmd) error {
	return netnstest.Within(w.node, func() error {
		// It ends with us. The thread lives as long as it does.
		started := make(chan error)
		go func() {
			runtime.LockOSThread()
			if err := netns.Set(w.node); err != nil {
				started <- err
				return
			}
			started <- command.Start()
		}()
		return <-started
	})
}

// connect connects from the client and returns which pod answered, and how
// long that took.
func (w *world) connect(dialer *net.Dialer, to string) (pod string, took time.Duration, err error) {
	start := time.Now()
	conn, err := dialer.Dial("tcp4", to)
	if err != nil {
		return "", 0, err
	}
	took = time.Since(start)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), took, err
}
