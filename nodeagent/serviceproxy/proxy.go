package serviceproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/network"
)

// Config is what Run needs to know. The informers are started by the caller.
type Config struct {
	Agent    hostconfig.NodeAgent
	Services coreinformers.ServiceInformer
	Slices   discoveryinformers.EndpointSliceInformer
	Nodes    coreinformers.NodeInformer // for this node's zone and addresses
	// CIDRs are networks that services get addresses of beside the configured ones;
	// nil: there are none.
	CIDRs networkinginformers.ServiceCIDRInformer
	Log   *slog.Logger
	// Applied is called once, when the rules for what the cluster has are in
	// place; nil: nobody waits for that.
	Applied func()
	// Events tells of what fails for one service; nil: nobody is told.
	Events record.EventRecorder
	// Metrics is where to show what is measured, beside the address that
	// kube-proxy shows it at; nil: nowhere.
	Metrics prometheus.Registerer
}

const (
	// A change is followed at once; then there is a pause of restFactor times
	// what it took, within limits: changes that come together are followed
	// together, and the proxy leaves most of a processor to others.
	restFactor = 4
	pauseMin   = 2 * time.Millisecond
	pauseMax   = time.Second
	// inspect is how often to see whether others have removed our rules.
	inspect = 30 * time.Second
	// Failed attempts are repeated after retryMin, then twice as long each
	// time.
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// Run keeps the kernel's rules as the cluster's services ask, until ctx ends;
// then it returns nil and leaves the rules at work. What fails is logged and
// tried again; the error that Run returns is about the host itself and will
// not go away: it lacks a program.
func Run(ctx context.Context, config Config) error {
	layouts, err := layoutsOf(config.Agent)
	if err != nil {
		return err
	}
	meters := newMeters()
	status := newProxyHealth(func() *corev1.Node {
		node, err := config.Nodes.Lister().Get(config.Agent.NodeName)
		if err != nil {
			return nil
		}
		return node
	}, meters)
	proxy := &proxy{config: config, status: status, meters: meters, dirt: newDirt()}
	var nets []netip.Prefix
	mode := ""
	for _, l := range layouts {
		h, err := newHalf(config.Agent.ServiceProxy.Mode, l, config.Log)
		if err != nil {
			return err
		}
		proxy.halves = append(proxy.halves, h)
		nets, mode = append(nets, l.nodeNets...), h.chosen.mode()
	}
	meters.mode(mode)
	if config.Metrics != nil {
		if err := config.Metrics.Register(meters.registry); err != nil {
			return fmt.Errorf("show metrics of the service proxy: %w", err)
		}
	}
	proxy.health = newHealthServers(config.Log, config.Events, status, nets)
	listening, end := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer end()
	group.Go(func() {
		status.listen(listening, fmt.Sprintf(":%d", hostconfig.PortProxyHealth), fmt.Sprintf("127.0.0.1:%d", hostconfig.PortProxyStatus), mode, config.Log)
	})
	synced, stop, err := watch(config, proxy.dirt, meters)
	if err != nil {
		return err
	}
	defer stop()
	if !cache.WaitFor(ctx, "", synced...) {
		return nil
	}
	defer proxy.health.close()
	proxy.loop(ctx)
	return nil
}

func newHalf(mode string, l layout, log *slog.Logger) (*half, error) {
	chosen, other, err := newBackend(mode, l, log)
	if err != nil {
		return nil, err
	}
	return &half{layout: l, ports: map[string][]servicePort{}, chosen: chosen, other: other}, nil
}

// layoutsOf returns a layout for each family that the cluster's pods have
// addresses of.
func layoutsOf(agent hostconfig.NodeAgent) ([]layout, error) {
	var all []layout
	networks, err := hostconfig.ParseNetworks(agent.Cluster.PodCIDR)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's pod networks: %w", err)
	}
	for _, pods := range networks {
		l := layout{family: family(pods.Addr().Is6()), pods: pods}
		l.nodeNets = prefixes(agent.ServiceProxy.NodePortAddresses, l.family)
		all = append(all, l)
	}
	return all, nil
}

// servicesOf are the networks of a family that services have addresses of.
func servicesOf(config Config, f family) []netip.Prefix {
	all := network.ServiceRanges(config.Agent.Cluster.ServiceCIDR, config.CIDRs)
	return slices.DeleteFunc(all, func(p netip.Prefix) bool { return !f.has(p.Addr()) })
}

// watch marks what changes and may matter.
func watch(config Config, dirt *dirt, meters *meters) (synced []cache.DoneChecker, stop func(), err error) {
	services := func(object any) []string {
		if s, ok := object.(*corev1.Service); ok {
			return []string{s.Namespace + "/" + s.Name}
		}
		return nil
	}
	ofService := func(object any) []string {
		names, _ := serviceOf(object)
		return names
	}
	own := cache.FilteringResourceEventHandler{
		FilterFunc: func(object any) bool {
			node, ok := object.(*corev1.Node)
			return ok && node.Name == config.Agent.NodeName
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { dirt.add() },
			UpdateFunc: func(old, new any) {
				before, after := old.(*corev1.Node), new.(*corev1.Node)
				if zoneOf(before) != zoneOf(after) || !slices.Equal(network.InternalIPs(before), network.InternalIPs(after)) {
					dirt.add()
				}
			},
		},
	}
	if err := config.Slices.Informer().AddIndexers(cache.Indexers{byService: serviceOf}); err != nil {
		return nil, nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	type source struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}
	sources := []source{
		{config.Services.Informer(), dirt.handler(services, func(any, any) { meters.services.add() })},
		{config.Slices.Informer(), dirt.handler(ofService, func(old, new any) {
			before, _ := old.(*discoveryv1.EndpointSlice)
			after, _ := new.(*discoveryv1.EndpointSlice)
			meters.sliceChanged(before, after)
		})},
		{config.Nodes.Informer(), own},
	}
	if config.CIDRs != nil {
		sources = append(sources, source{config.CIDRs.Informer(), network.OnServiceRanges(func() { dirt.add() })})
	}
	for _, source := range sources {
		registration, err := source.informer.AddEventHandler(source.handler)
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("watch services: %w", err)
		}
		undo = append(undo, func() { _ = source.informer.RemoveEventHandler(registration) })
		synced = append(synced, registration.HasSyncedChecker())
	}
	return synced, stop, nil
}

// proxy is the service proxy at work.
type proxy struct {
	config Config
	halves []*half
	status *proxyHealth
	meters *meters
	health *healthServers
	dirt   *dirt
}

// loop brings the rules up to date whenever something changed, and inspects
// them now and then, until ctx ends.
func (p *proxy) loop(ctx context.Context) {
	var retry time.Duration
	p.dirt.add() // all of it
	wait := inspect
	for {
		timer := time.NewTimer(wait)
		changed := false
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.dirt.wake:
			timer.Stop()
			changed = true
		case <-timer.C:
		}
		start := time.Now()
		if err := p.sync(ctx, changed || retry > 0); err != nil {
			retry = min(max(2*retry, retryMin), retryMax)
			wait = retry
			p.config.Log.Error("services are not reachable as they should be", "err", err, "retry", retry)
		} else {
			wait, retry = inspect, 0
			if p.config.Applied != nil {
				p.config.Applied()
				p.config.Applied = nil
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(restFactor*time.Since(start), pauseMin), pauseMax)):
		}
	}
}

// sync inspects the rules unless something changed, and brings them up to date
// if something did or is missing.
func (p *proxy) sync(ctx context.Context, changed bool) error {
	var errs []error
	names, all := p.dirt.take()
	p.meters.taken()
	for _, h := range p.halves {
		update := changed || all || len(names) > 0
		if !update {
			intact, err := h.chosen.intact()
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if !intact {
				p.config.Log.Warn("somebody has removed the services' rules: writing them again")
				h.chosen.forget()
				update = true
			}
		}
		if update {
			errs = append(errs, p.update(ctx, h, names, all))
		}
	}
	return errors.Join(errs...)
}

// update computes the ports of services that changed, and has the kernel
// follow.
func (p *proxy) update(ctx context.Context, h *half, names map[string]struct{}, all bool) error {
	start := time.Now()
	p.status.queued(h.layout.family)
	done := p.meters.begun(h.layout.family)
	here := self{node: p.config.Agent.NodeName, family: h.layout.family}
	if node, err := p.config.Nodes.Lister().Get(here.node); err == nil {
		here.zone = zoneOf(node)
		for _, address := range network.InternalIPs(node) {
			if here.family.has(address) {
				here.address = address
			}
		}
	}
	if services := servicesOf(p.config, h.layout.family); !slices.Equal(services, h.layout.services) {
		h.layout.services = services
		h.chosen.relay(h.layout)
	}
	changes, err := h.compute(p.config, here, names, all)
	if err != nil {
		p.dirt.add() // some of it is not computed yet
		return err
	}
	changes = h.settle(changes)
	changed, err := h.chosen.apply(h.ports, changes)
	if err != nil {
		h.owed = changes
		p.meters.failures.WithLabelValues(h.layout.family.String()).Inc()
		return err
	}
	if h.other != nil {
		// Only now: what one back end leads, the other need not any more.
		if err := h.other.remove(); err != nil {
			p.config.Log.Warn("rules of the service proxy's other mode are still there", "err", err)
		}
		h.other = nil
	}
	p.status.followed(h.layout.family)
	done(changes, all)
	p.updateHealth(ctx, changes)
	if ports := changedUDP(changes); len(ports) > 0 {
		start, label := time.Now(), h.layout.family.String()
		forgotten, err := forgetFlows(ports, h.layout.family)
		p.meters.flowsTook.WithLabelValues(label).Observe(time.Since(start).Seconds())
		p.meters.flows.WithLabelValues(label).Add(float64(forgotten))
		if err != nil {
			p.config.Log.Warn("UDP clients may still be sent to endpoints that have gone", "err", err)
		}
	}
	if changed {
		p.config.Log.Debug("services brought up to date", "changed", len(changes), "services", len(h.ports), "took", time.Since(start))
	}
	return nil
}

// updateHealth tells load balancers of changes, and of ports that could not be
// listened on the last time.
func (p *proxy) updateHealth(ctx context.Context, changes map[string]change) {
	asked := len(p.health.servers) > 0
	for _, c := range changes {
		for _, port := range c.new {
			asked = asked || port.healthPort != 0
		}
	}
	if !asked {
		return
	}
	p.health.update(ctx, p.config.Agent.NodeName, func(yield func(servicePort) bool) {
		for _, h := range p.halves {
			for _, ports := range h.ports {
				for _, port := range ports {
					if port.healthPort != 0 && !yield(port) {
						return
					}
				}
			}
		}
	})
}

func zoneOf(node *corev1.Node) string { return node.Labels[corev1.LabelTopologyZone] }

// Remove takes every rule of the service proxy off the host. It finds nothing
// to do when there is nothing, and goes on past what fails.
func Remove(log *slog.Logger) error {
	var errs []error
	for _, f := range []family{ipv4, ipv6} {
		nft := newNftables(layout{family: f})
		if _, err := nft.intact(); err != nil {
			log.Debug("no nftables, no rules", "err", err)
		} else {
			errs = append(errs, nft.remove())
		}
		ipt, err := newIptables(layout{family: f})
		if err == nil {
			_, err = ipt.iptables.ListChains("nat")
		}
		if err != nil {
			log.Debug("no iptables, no rules", "err", err)
			continue
		}
		errs = append(errs, ipt.remove())
	}
	return errors.Join(errs...)
}
