package serviceproxy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// byService is an index of endpoint slices: by namespace/name of the service
// that they are of.
const byService = "clusterctl-serviceproxy"

func serviceOf(object any) ([]string, error) {
	slice, ok := object.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

// dirt is what has changed since it was last taken. It may be used by many
// goroutines at a time.
type dirt struct {
	wake chan struct{} // of one slot

	mu       sync.Mutex
	services map[string]struct{} // namespace/name
	all      bool                // every service
}

func newDirt() *dirt { return &dirt{wake: make(chan struct{}, 1), services: map[string]struct{}{}} }

// add marks services; no name at all: every service.
func (d *dirt) add(services ...string) {
	d.mu.Lock()
	for _, name := range services {
		d.services[name] = struct{}{}
	}
	d.all = d.all || len(services) == 0
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dirt) take() (services map[string]struct{}, all bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	services, all = d.services, d.all
	d.services, d.all = map[string]struct{}{}, false
	return services, all
}

// handler marks what events are about: names tells of which services an
// object is. Seen is told of each event; one of old and new may be nil.
func (d *dirt) handler(names func(object any) []string, seen func(old, new any)) cache.ResourceEventHandler {
	mark := func(objects ...any) {
		var all []string
		for _, object := range objects {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = gone.Obj
			}
			all = append(all, names(object)...)
		}
		if len(all) > 0 {
			d.add(all...)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { seen(nil, object); mark(object) },
		UpdateFunc: func(old, new any) { seen(old, new); mark(old, new) },
		DeleteFunc: func(object any) { seen(object, nil); mark(object) },
	}
}

// half is one family of the services: their ports, as last computed, and who
// gives them to the kernel.
type half struct {
	layout layout
	self   self
	ports  map[string][]servicePort // by service
	chosen backend
	other  backend           // its rules are to go; nil: done
	owed   map[string]change // computed, but not given to the kernel
}

// settle returns changes together with those that are owed: what became of each
// service since the kernel last followed.
func (h *half) settle(changes map[string]change) map[string]change {
	for name, owed := range h.owed {
		if later, again := changes[name]; again {
			owed.new = later.new
		}
		changes[name] = owed
	}
	h.owed = nil
	return changes
}

// compute brings the ports of services up to date and returns what changed.
func (h *half) compute(config Config, self self, names map[string]struct{}, all bool) (map[string]change, error) {
	if h.self != self {
		h.self, all = self, true
	}
	if all {
		services, err := config.Services.Lister().List(labels.Everything())
		if err != nil {
			return nil, fmt.Errorf("list services: %w", err)
		}
		names = make(map[string]struct{}, len(services))
		for _, s := range services {
			names[s.Namespace+"/"+s.Name] = struct{}{}
		}
		for name := range h.ports {
			names[name] = struct{}{}
		}
	}
	changes := make(map[string]change, len(names))
	for name := range names {
		ports, err := h.portsOf(config, name)
		if err != nil {
			return nil, err
		}
		old := h.ports[name]
		keepOrder(old, ports)
		if len(old)+len(ports) == 0 || reflect.DeepEqual(old, ports) {
			continue
		}
		changes[name] = change{old, ports}
		if len(ports) == 0 {
			delete(h.ports, name)
		} else {
			h.ports[name] = ports
		}
	}
	return changes, nil
}

func (h *half) portsOf(config Config, name string) ([]servicePort, error) {
	namespace, short, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil, fmt.Errorf("find service: %w", err)
	}
	service, err := config.Services.Lister().Services(namespace).Get(short)
	if errors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("find service: %w", err)
	}
	found, err := config.Slices.Informer().GetIndexer().ByIndex(byService, name)
	if err != nil {
		return nil, fmt.Errorf("find endpoint slices: %w", err)
	}
	all := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, object := range found {
		if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
			all = append(all, slice)
		}
	}
	return portsOf(service, all, h.self), nil
}

// keepOrder puts endpoints that stay where they were before: the numbers that
// they are found by need not change then.
func keepOrder(old, new []servicePort) {
	for i := range new {
		for j := range old {
			if old[j].name == new[i].name && old[j].protocol == new[i].protocol {
				new[i].endpoints = arrange(old[j].endpoints, new[i].endpoints)
				new[i].local = arrange(old[j].local, new[i].local)
			}
		}
	}
}

// arrange returns the endpoints in an order of which as many as can be have
// the place that they had.
func arrange(old, endpoints []netip.AddrPort) []netip.AddrPort {
	if len(endpoints) == 0 {
		return endpoints
	}
	arranged := make([]netip.AddrPort, len(endpoints))
	var rest []netip.AddrPort
	for _, e := range endpoints {
		if i := slices.Index(old, e); i >= 0 && i < len(arranged) {
			arranged[i] = e
		} else {
			rest = append(rest, e)
		}
	}
	for i := range arranged {
		if !arranged[i].IsValid() {
			arranged[i], rest = rest[0], rest[1:]
		}
	}
	return arranged
}

// changedUDP returns the UDP ports that changed, as they are now.
func changedUDP(changes map[string]change) []servicePort {
	var ports []servicePort
	for _, c := range changes {
		for _, p := range c.new {
			if p.protocol == corev1.ProtocolUDP {
				ports = append(ports, p)
			}
		}
	}
	return ports
}
