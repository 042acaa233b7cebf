package serviceproxy

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"clusterctl/hostconfig"
)

// Config is what Run needs to know. The informers are started by the caller.
type Config struct {
	Agent    hostconfig.NodeAgent
	Services coreinformers.ServiceInformer
	Slices   discoveryinformers.EndpointSliceInformer
	Nodes    coreinformers.NodeInformer // for this node's zone
	Log      *slog.Logger
	// Applied is called once, when the rules for what the cluster has are in
	// place; nil: nobody waits for that.
	Applied func()
}

const (
	// settle is how long to wait for more after a change: a rollout changes
	// many things within a moment.
	settle = 20 * time.Millisecond
	// pause is the least time between two changes of the kernel's rules.
	pause = 250 * time.Millisecond
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
	kernel, err := newKernel()
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	synced, stop, err := watch(config, changed)
	if err != nil {
		return err
	}
	defer stop()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	proxy := &proxy{config: config, kernel: kernel, health: newHealthServers(config.Log)}
	defer proxy.health.close()
	proxy.loop(ctx, changed)
	return nil
}

// watch wakes a channel of one slot whenever something changes that may
// matter.
func watch(config Config, changed chan<- struct{}) (synced []cache.InformerSynced, stop func(), err error) {
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	always := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		UpdateFunc: func(any, any) { wake() },
		DeleteFunc: func(any) { wake() },
	}
	ownZone := cache.FilteringResourceEventHandler{
		FilterFunc: func(object any) bool {
			node, ok := object.(*corev1.Node)
			return ok && node.Name == config.Agent.NodeName
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { wake() },
			UpdateFunc: func(old, new any) {
				if zoneOf(old.(*corev1.Node)) != zoneOf(new.(*corev1.Node)) {
					wake()
				}
			},
		},
	}
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	for _, source := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{config.Services.Informer(), always},
		{config.Slices.Informer(), always},
		{config.Nodes.Informer(), ownZone},
	} {
		registration, err := source.informer.AddEventHandler(source.handler)
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("watch services: %w", err)
		}
		undo = append(undo, func() { _ = source.informer.RemoveEventHandler(registration) })
		synced = append(synced, registration.HasSynced)
	}
	return synced, stop, nil
}

// proxy is the service proxy at work.
type proxy struct {
	config Config
	kernel *kernel
	health *healthServers
}

// loop brings the rules up to date whenever something changed, and inspects
// them now and then, until ctx ends.
func (p *proxy) loop(ctx context.Context, changed <-chan struct{}) {
	var retry time.Duration
	wait, update := time.Duration(0), true
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
			timer.Stop()
			update = true
			if !sleep(ctx, settle) {
				return
			}
		case <-timer.C:
		}
		if err := p.sync(ctx, update); err != nil {
			retry = min(max(2*retry, retryMin), retryMax)
			wait, update = retry, true
			p.config.Log.Error("services are not reachable as they should be", "err", err, "retry", retry)
		} else {
			wait, update, retry = inspect, false, 0
			if p.config.Applied != nil {
				p.config.Applied()
				p.config.Applied = nil
			}
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// sync inspects the rules and, if something changed or is missing, brings
// them up to date.
func (p *proxy) sync(ctx context.Context, update bool) error {
	if !update {
		intact, err := p.kernel.intact()
		if err != nil {
			return err
		}
		if !intact {
			p.config.Log.Warn("somebody has removed the services' rules: writing them again")
			p.kernel.forget()
			update = true
		}
	}
	if update {
		if err := p.update(ctx); err != nil {
			return err
		}
	}
	// Last: chains have to exist before something can jump to them.
	missing, err := p.kernel.hook()
	if err == nil && missing && !update {
		p.config.Log.Warn("somebody has removed the jumps to the services' rules: added again")
	}
	return err
}

// update computes the rules anew and gives the kernel what changed.
func (p *proxy) update(ctx context.Context) error {
	start := time.Now()
	ports, err := p.model()
	if err != nil {
		return err
	}
	nat, filter := render(ports, p.config.Agent.Cluster.PodCIDR, p.kernel.iptables.HasRandomFully())
	// First nat: a service that has endpoints again is led to them before it
	// is no longer rejected, and what is led is not rejected.
	natChanged, err := p.kernel.apply("nat", nat)
	if err != nil {
		return err
	}
	filterChanged, err := p.kernel.apply("filter", filter)
	if err != nil {
		return err
	}
	p.health.update(ctx, ports)
	if !natChanged && !filterChanged {
		return nil
	}
	if err := forgetFlows(ports); err != nil {
		p.config.Log.Warn("UDP clients may still be sent to endpoints that have gone", "err", err)
	}
	p.config.Log.Debug("services brought up to date", "ports", len(ports), "chains", len(nat), "took", time.Since(start))
	return nil
}

func (p *proxy) model() ([]servicePort, error) {
	services, err := p.config.Services.Lister().List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	slices, err := p.config.Slices.Lister().List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices: %w", err)
	}
	here := self{node: p.config.Agent.NodeName}
	if node, err := p.config.Nodes.Lister().Get(here.node); err == nil {
		here.zone = zoneOf(node)
	}
	return buildModel(services, slices, here), nil
}

func zoneOf(node *corev1.Node) string { return node.Labels[corev1.LabelTopologyZone] }

// sleep waits; it reports false if ctx ended meanwhile.
func sleep(ctx context.Context, duration time.Duration) bool {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Remove takes every rule of the service proxy off the host. It finds nothing
// to do when there is nothing, and goes on past what fails.
func Remove(log *slog.Logger) error {
	kernel, err := newKernel()
	if err != nil {
		log.Debug("no iptables, no rules", "err", err)
		return nil
	}
	return kernel.unhook()
}
