package core

import (
	"maps"
	"math/big"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

func portsOf(a *nodePortAllocator, bits *big.Int) []int32 {
	var list []int32
	for i := range bits.BitLen() {
		if bits.Bit(i) == 1 {
			list = append(list, a.first+int32(i))
		}
	}
	return list
}

func bitsOf(a *nodePortAllocator, ports ...int32) *big.Int {
	bits := new(big.Int)
	for _, p := range ports {
		bits.SetBit(bits, int(p-a.first), 1)
	}
	return bits
}

func withPorts(ports ...int32) corev1.Service {
	s := corev1.Service{}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: p, Protocol: corev1.ProtocolTCP})
	}
	return s
}

func TestCompareNodePorts(t *testing.T) {
	a := &nodePortAllocator{text: "30000-30009", first: 30000, last: 30009}
	both := withPorts(30001, 30001)
	both.Spec.Ports[1].Protocol = corev1.ProtocolUDP
	health := withPorts(30001)
	health.Spec.HealthCheckNodePort = 30002
	for name, c := range map[string]struct {
		held     []int32
		services []corev1.Service
		leaks    map[int32]int
		want     []int32
		left     map[int32]int
		freed    []int32
		faults   []string
	}{
		"in step":          {held: []int32{30001, 30002}, services: []corev1.Service{withPorts(30001), withPorts(30002, 0)}, want: []int32{30001, 30002}},
		"two protocols":    {held: []int32{30001}, services: []corev1.Service{both}, want: []int32{30001}},
		"health check":     {held: []int32{30001, 30002}, services: []corev1.Service{health}, want: []int32{30001, 30002}},
		"not held":         {services: []corev1.Service{withPorts(30001)}, want: []int32{30001}, faults: []string{"PortNotAllocated: Port 30001 is not allocated; repairing"}},
		"held twice":       {held: []int32{30001}, services: []corev1.Service{withPorts(30001), withPorts(30001)}, want: []int32{30001}, faults: []string{"PortAlreadyAllocated: Port 30001 was assigned to multiple services; please recreate service"}},
		"twice in one":     {held: []int32{30001}, services: []corev1.Service{withPorts(30001, 30001)}, want: []int32{30001}, faults: []string{"PortAlreadyAllocated: Port 30001 was assigned to multiple services; please recreate service"}},
		"out of range":     {services: []corev1.Service{withPorts(30010)}, faults: []string{"PortOutOfRange: Port 30010 is not within the port range 30000-30009; please recreate service"}},
		"leaked":           {held: []int32{30003}, want: []int32{30003}, left: map[int32]int{30003: 1}},
		"leaked for long":  {held: []int32{30003}, leaks: map[int32]int{30003: leakPatience}, freed: []int32{30003}},
		"used after all":   {held: []int32{30003}, leaks: map[int32]int{30003: leakPatience}, services: []corev1.Service{withPorts(30003)}, want: []int32{30003}},
		"given back since": {leaks: map[int32]int{30003: leakPatience}},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.compare(bitsOf(a, c.held...), c.services, c.leaks)
			var faults []string
			for _, f := range got.faults {
				faults = append(faults, f.reason+": "+f.message)
			}
			if c.left == nil {
				c.left = map[int32]int{}
			}
			if diff := cmp.Diff([]any{c.want, c.left, c.freed, c.faults}, []any{portsOf(a, got.bits), got.leaks, got.freed, faults}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Repairs that nothing disturbs end with exactly what the services use, and
// give up nothing of it on the way.
func TestRepairsSettle(t *testing.T) {
	a := &nodePortAllocator{text: "30000-30019", first: 30000, last: 30019}
	rapid.Check(t, func(t *rapid.T) {
		port := rapid.Int32Range(a.first, a.last)
		held := bitsOf(a, rapid.SliceOf(port).Draw(t, "held")...)
		used := map[int32]bool{}
		var services []corev1.Service
		for _, list := range rapid.SliceOf(rapid.SliceOf(port)).Draw(t, "services") {
			services = append(services, withPorts(list...))
			for _, p := range list {
				used[p] = true
			}
		}
		var leaks map[int32]int
		for range leakPatience + 1 {
			result := a.compare(held, services, leaks)
			held, leaks = result.bits, result.leaks
			for p := range used {
				if held.Bit(int(p-a.first)) == 0 {
					t.Fatalf("port %d of a service is free", p)
				}
			}
		}
		if got, want := portsOf(a, held), slices.Sorted(maps.Keys(used)); !slices.Equal(got, want) || len(leaks) > 0 {
			t.Fatalf("held %v, want %v; leaks %v", got, want, leaks)
		}
	})
}
