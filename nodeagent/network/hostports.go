package network

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PortMapping leads from a port of the host to one of a pod. It is comparable.
type PortMapping struct {
	Protocol corev1.Protocol
	HostIP   netip.Addr // one of the host's addresses; invalid: all of them
	HostPort uint16
	Target   netip.AddrPort // in the pod; only packets of its family are led there
}

// PortMappings are those that a pod asks for, with these addresses: one for each
// of its containers' host ports and for each address that fits it.
func PortMappings(pod *corev1.Pod, addresses []string) []PortMapping {
	if pod.Spec.HostNetwork {
		return nil
	}
	var list []PortMapping
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for _, port := range containers[i].Ports {
				if port.HostPort == 0 {
					continue
				}
				for _, text := range addresses {
					if m, ok := portMapping(port, text); ok && !slices.ContainsFunc(list, func(other PortMapping) bool { return other.front() == m.front() }) {
						list = append(list, m)
					}
				}
			}
		}
	}
	return list
}

func portMapping(port corev1.ContainerPort, podIP string) (m PortMapping, ok bool) {
	target, err := netip.ParseAddr(podIP)
	if err != nil {
		return m, false
	}
	m = PortMapping{Protocol: cmp.Or(port.Protocol, corev1.ProtocolTCP), HostPort: uint16(port.HostPort),
		Target: netip.AddrPortFrom(target, uint16(port.ContainerPort))}
	if port.HostIP == "" {
		return m, true
	}
	host, err := netip.ParseAddr(port.HostIP)
	if err != nil || host.Unmap().Is4() != target.Is4() {
		return m, false
	}
	if !host.IsUnspecified() {
		m.HostIP = host.Unmap()
	}
	return m, true
}

// front is where packets come in.
type front struct {
	family   family
	protocol corev1.Protocol
	address  netip.Addr // invalid: any of the host's
	port     uint16
}

func (m PortMapping) front() front {
	return front{familyOf(m.Target.Addr()), m.Protocol, m.HostIP, m.HostPort}
}

// HostPorts leads packets from ports of the host to those of pods that ask for
// it (hostPort). The rules stay when the agent ends. Its methods may be called by
// many goroutines at a time.
type HostPorts struct {
	log *slog.Logger

	mu    sync.Mutex
	pods  map[types.UID]claim
	turn  int                                 // counts claims: where two pods claim the same port, the last one has it
	known map[family]bool                     // what the kernel has is certain
	has   map[family]map[front]netip.AddrPort // what the kernel has
}

// claim is what a pod asks for.
type claim struct {
	turn  int
	ports []PortMapping
}

// NewHostPorts changes nothing yet: what an agent before this one left stays until
// Restore.
func NewHostPorts(log *slog.Logger) *HostPorts {
	return &HostPorts{log: log, pods: map[types.UID]claim{}, known: map[family]bool{}, has: map[family]map[front]netip.AddrPort{}}
}

// Restore takes over from an agent before this one: of what that one had mapped
// only these stay, until Set says otherwise. On a host that has just come up there
// is nothing to take over, and what is remembered of its pods may be out of date.
func (h *HostPorts) Restore(pods map[types.UID][]PortMapping) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := withPortMaps(h.log)
	left := len(old) > 0
	for _, f := range families {
		exists, err := tableExists(f.table(tableHostPorts))
		if err != nil {
			return err
		}
		left = left || exists
	}
	if !left {
		h.known[ipv4], h.known[ipv6] = true, true
		return nil
	}
	for _, uid := range slices.Sorted(maps.Keys(pods)) {
		h.turn++
		h.pods[uid] = claim{h.turn, pods[uid]}
	}
	if err := h.apply(); err != nil {
		return err
	}
	var errs []error
	for _, r := range old { // only now: what is led by new rules needs no old ones
		errs = append(errs, r.removePortMaps())
	}
	return errors.Join(errs...)
}

// Set makes the pod's ports those given; none are given once it has lost its
// addresses. When it returns nil, they are as they shall be. An error is for the
// ports of all pods: it is tried again with the next change, and by Run.
func (h *HostPorts) Set(pod types.UID, ports []PortMapping) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Equal(h.pods[pod].ports, ports) && (len(ports) == 0 || h.certain()) {
		return nil
	}
	if len(ports) == 0 {
		delete(h.pods, pod)
	} else if !slices.Equal(h.pods[pod].ports, ports) {
		h.turn++
		h.pods[pod] = claim{h.turn, ports}
	}
	return h.apply()
}

func (h *HostPorts) certain() bool {
	return !slices.ContainsFunc(families, func(f family) bool { return !h.known[f] })
}

// Run sees to it that the rules stay as they are, until ctx ends.
func (h *HostPorts) Run(ctx context.Context) {
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := h.inspect(); err != nil {
				h.log.Error("host ports are not as they should be", "err", err, "retry", resync)
			}
		}
	}
}

// inspect notices that others have removed our tables, and tries again what failed.
func (h *HostPorts) inspect() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range families {
		if !h.known[f] || len(h.has[f]) == 0 {
			continue
		}
		exists, err := tableExists(f.table(tableHostPorts))
		if err != nil {
			return err
		}
		if !exists {
			h.log.Warn("somebody has removed the rules of host ports: writing them again")
			h.known[f] = false
		}
	}
	return h.apply()
}

// apply gives the kernel what differs from what it has. h.mu is held.
func (h *HostPorts) apply() error {
	want := map[family]map[front]netip.AddrPort{ipv4: {}, ipv6: {}}
	for _, c := range slices.SortedFunc(maps.Values(h.pods), func(a, b claim) int { return cmp.Compare(a.turn, b.turn) }) {
		for _, m := range c.ports {
			want[familyOf(m.Target.Addr())][m.front()] = m.Target
		}
	}
	var errs []error
	for _, f := range families {
		if h.known[f] && maps.Equal(h.has[f], want[f]) {
			continue
		}
		if !h.known[f] && f == ipv6 && len(want[f]) == 0 && !hasIPv6() {
			h.known[f] = true
			continue
		}
		old, fresh := h.has[f], !h.known[f]
		h.known[f] = false // until it is certain
		if err := changeHostPorts(f, old, want[f], fresh); err != nil {
			errs = append(errs, err)
			continue
		}
		h.known[f], h.has[f] = true, want[f]
		if err := forgetFlows(f, old, want[f]); err != nil {
			h.log.Warn("UDP clients of host ports may still be sent where they were", "err", err)
		}
	}
	return errors.Join(errs...)
}
