package serviceproxy

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/netnstest"
)

// manyServices are n services with two endpoints each.
func manyServices(n int) map[string][]servicePort {
	all := make(map[string][]servicePort, n)
	for i := range n {
		at := func(a, b byte) netip.Addr { return netip.AddrFrom4([4]byte{10, a, byte(i >> 8), b}) }
		name := fmt.Sprintf("bench/service-%05d", i)
		all[name] = []servicePort{{
			name: name + ":http", service: name, protocol: corev1.ProtocolTCP,
			clusterIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), port: 80,
			endpoints: []netip.AddrPort{netip.AddrPortFrom(at(244, 2), 8080), netip.AddrPortFrom(at(245, 3), 8080)},
		}}
	}
	return all
}

// within10000 runs f on a node with 10,000 services and their back end.
func within10000(b *testing.B, f func(n *nftablesBackend, all map[string][]servicePort) error) {
	ns := netnstest.Namespace(b)
	err := netnstest.Within(ns, func() error {
		n := newNftables(testLayout)
		if err := n.probe(); err != nil {
			b.Skipf("no nftables here: %v", err)
		}
		return f(n, manyServices(10000))
	})
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkColdServices(b *testing.B) {
	within10000(b, func(n *nftablesBackend, all map[string][]servicePort) error {
		for b.Loop() {
			if err := n.remove(); err != nil {
				return err
			}
			if _, err := n.apply(all, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

func BenchmarkRestartWithServices(b *testing.B) {
	within10000(b, func(n *nftablesBackend, all map[string][]servicePort) error {
		if _, err := n.apply(all, nil); err != nil {
			return err
		}
		for b.Loop() {
			n.forget()
			if changed, err := n.apply(all, nil); err != nil || changed {
				return fmt.Errorf("changed %v, %w", changed, err)
			}
		}
		return nil
	})
}

func BenchmarkOneEndpoint(b *testing.B) {
	within10000(b, func(n *nftablesBackend, all map[string][]servicePort) error {
		if _, err := n.apply(all, nil); err != nil {
			return err
		}
		const name = "bench/service-05000"
		for i := 0; b.Loop(); i++ {
			old := all[name]
			now := []servicePort{old[0]}
			now[0].endpoints = []netip.AddrPort{old[0].endpoints[0], netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 246, 0, byte(i)}), 8080)}
			all[name] = now
			if _, err := n.apply(all, map[string]change{name: {old, now}}); err != nil {
				return err
			}
		}
		return nil
	})
}
