package core

import (
	"context"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/retry"

	"clusterctl/controlplane/api"
)

const (
	portRepairPeriod = 3 * time.Minute
	// leakPatience is in how many repairs in a row a port has to be held by no
	// service before it is given back: a request may be about to use it.
	leakPatience = 3
)

// portRepair keeps the node ports held in etcd in step with the services, which
// are right: an API server that is cut off between the two leaves a port held
// that nothing uses.
type portRepair struct {
	ports    *nodePortAllocator
	client   kubernetes.Interface
	recorder events.EventRecorder
	leaks    map[int32]int // repairs in a row that saw the port leaked
}

// repairNodePorts repairs at once and then every portRepairPeriod until ctx ends.
func repairNodePorts(ctx context.Context, env *api.Environment, ports *nodePortAllocator) {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: env.Client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		slog.Error("record events about node ports", "error", err)
	}
	defer broadcaster.Shutdown()
	r := &portRepair{ports: ports, client: env.Client, recorder: broadcaster.NewRecorder(clientscheme.Scheme, "portallocator-repair-controller")}
	tick := time.NewTicker(portRepairPeriod)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := r.run(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("Node ports are not repaired; trying again later", "error", err, "in", portRepairPeriod)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// run repairs once. It begins anew when node ports are taken meanwhile.
func (r *portRepair) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error { return r.try(ctx) })
}

func (r *portRepair) try(ctx context.Context) error {
	// Before the services: a port taken after this is a conflict below.
	stored := &corev1.RangeAllocation{}
	if err := r.ports.store.Get(ctx, portsKey, storage.GetOptions{IgnoreNotFound: true}, stored); err != nil {
		return fmt.Errorf("read node ports in use: %w", err)
	}
	services, err := r.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	result := r.ports.compare(r.ports.bits(stored), services.Items, r.leaks)
	err = r.ports.change(ctx, func(current *corev1.RangeAllocation, bits *big.Int) error {
		if current.ResourceVersion != stored.ResourceVersion {
			return apierrors.NewConflict(corev1.Resource("servicenodeportallocations"), stored.Name, fmt.Errorf("node ports were taken or given back"))
		}
		bits.Set(result.bits)
		return nil
	})
	if err != nil {
		return fmt.Errorf("write node ports in use: %w", err)
	}
	r.leaks = result.leaks
	for _, fault := range result.faults {
		r.recorder.Eventf(fault.service, nil, corev1.EventTypeWarning, fault.reason, "PortAllocation", "%s", fault.message)
		slog.Warn("Node port of a service is wrong", "service", fault.service.Namespace+"/"+fault.service.Name, "message", fault.message)
	}
	if len(result.freed) > 0 {
		slog.Warn("Node ports were held by no service; given back", "ports", result.freed)
	}
	return nil
}

// portComparison is what the services say about the node ports.
type portComparison struct {
	bits   *big.Int // that should be held
	leaks  map[int32]int
	freed  []int32
	faults []portFault
}

type portFault struct {
	service         *corev1.Service
	reason, message string
}

// compare finds which ports should be held, of those that are; leaks is what
// the last comparison found.
func (a *nodePortAllocator) compare(held *big.Int, services []corev1.Service, leaks map[int32]int) portComparison {
	result := portComparison{bits: new(big.Int), leaks: map[int32]int{}}
	for i := range services {
		s := &services[i]
		fault := func(reason, format string, args ...any) {
			result.faults = append(result.faults, portFault{s, reason, fmt.Sprintf(format, args...)})
		}
		for _, port := range portClaims(s) {
			offset := int(port - a.first)
			switch {
			case port < a.first || port > a.last:
				fault("PortOutOfRange", "Port %d is not within the port range %s; please recreate service", port, a.text)
			case result.bits.Bit(offset) == 1:
				fault("PortAlreadyAllocated", "Port %d was assigned to multiple services; please recreate service", port)
			default:
				if held.Bit(offset) == 0 {
					fault("PortNotAllocated", "Port %d is not allocated; repairing", port)
				}
				result.bits.SetBit(result.bits, offset, 1)
			}
		}
	}
	for offset := range held.BitLen() {
		if held.Bit(offset) == 0 || result.bits.Bit(offset) == 1 {
			continue
		}
		port := a.first + int32(offset)
		if seen := leaks[port] + 1; seen > leakPatience {
			result.freed = append(result.freed, port)
		} else {
			result.leaks[port] = seen
			result.bits.SetBit(result.bits, offset, 1)
		}
	}
	return result
}

// portClaims are a service's node ports, one for each time that it needs the
// port for itself: ports of different protocols can share one.
func portClaims(s *corev1.Service) []int32 {
	var claims []int32
	protocols := map[int32][]corev1.Protocol{}
	claim := func(port int32, protocol corev1.Protocol) {
		if port == 0 {
			return
		}
		if others := protocols[port]; len(others) == 0 || slices.Contains(others, protocol) {
			claims = append(claims, port)
		}
		protocols[port] = append(protocols[port], protocol)
	}
	for _, p := range s.Spec.Ports {
		claim(p.NodePort, p.Protocol)
	}
	claim(s.Spec.HealthCheckNodePort, corev1.ProtocolTCP)
	return claims
}
