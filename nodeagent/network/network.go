package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	coreinformers "k8s.io/client-go/informers/core/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"clusterctl/hostconfig"
)

// Links of ours.
const (
	BridgeLink  = "cctl0"
	OverlayLink = "cctl-vx"
)

// conflistFile is the CNI configuration's name in its directory.
const conflistFile = "10-clusterctl.conflist"

// Config is what Run needs to know.
type Config struct {
	Agent hostconfig.NodeAgent
	Nodes coreinformers.NodeInformer // of all nodes; started by the caller
	// CIDRs are networks that services get addresses of beside the configured ones;
	// nil: there are none. Started by the caller.
	CIDRs networkinginformers.ServiceCIDRInformer
	Log   *slog.Logger
	// After is closed once the services' rules are in place. The CNI
	// configuration, and with it the node's readiness for pods, waits for
	// that: what a pod sends to a service before would go astray. Nil: it does
	// not wait.
	After <-chan struct{}
}

// How often the kernel's state is compared with the cluster's, besides
// whenever a node changes: others may have changed it.
const resync = time.Minute

// Failed attempts are repeated after retryMin, then twice as long each time.
const (
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// Run keeps the node's part of the pod network as the cluster's nodes ask,
// until ctx ends; then it returns nil and leaves the network working. The CNI
// configuration appears as soon as this node has a pod CIDR. What fails is
// logged and tried again; the error that Run returns is about the configuration
// and will not go away.
func Run(ctx context.Context, config Config) error {
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	informer := config.Nodes.Informer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { wake() },
		UpdateFunc: func(old, new any) {
			if differs(old, new) {
				wake()
			}
		},
		DeleteFunc: func(any) { wake() },
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(registration) }()
	if config.CIDRs != nil {
		added, err := config.CIDRs.Informer().AddEventHandler(OnServiceRanges(wake))
		if err != nil {
			return fmt.Errorf("watch services' networks: %w", err)
		}
		defer func() { _ = config.CIDRs.Informer().RemoveEventHandler(added) }()
	}
	if err := watchRoutes(ctx.Done(), wake); err != nil {
		return err
	}
	filters := map[family]*rules{}
	pods, err := hostconfig.ParseNetworks(config.Agent.Cluster.PodCIDR)
	if err != nil {
		return fmt.Errorf("pod networks: %w", err)
	}
	for _, network := range pods {
		f := familyOf(network.Addr())
		filters[f] = &rules{family: f, pods: network}
	}
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil
	}
	if config.After != nil {
		go func() {
			select {
			case <-config.After:
				wake()
			case <-ctx.Done():
			}
		}()
	}
	keeper := &keeper{config: config, rules: filters}
	var retry time.Duration
	for {
		wait := resync
		if err := keeper.reconcile(); err != nil {
			retry = min(max(2*retry, retryMin), retryMax)
			wait = retry
			config.Log.Error("pod network is not as it should be", "err", err, "retry", retry)
		} else {
			retry = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// keeper makes the host's network the way the cluster wants it.
type keeper struct {
	config Config
	rules  map[family]*rules // of the families that the cluster's pods have
	cidrs  []netip.Prefix    // as last configured, to log changes of them only
}

func (k *keeper) reconcile() error {
	agent := k.config.Agent
	nodes, err := k.config.Nodes.Lister().List(everything)
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	outer, own := k.ownAddresses()
	want := draw(nodes, agent.NodeName, outer, own, k.config.Log)
	want.Services = ServiceRanges(agent.Cluster.ServiceCIDR, k.config.CIDRs)
	settings, err := hostSysctls(k.rules[ipv6] != nil)
	errs := []error{err, setSysctls(agent.StateDir, settings, k.config.Log)}
	if !want.PodCIDR[outer].IsValid() {
		k.config.Log.Debug("node has no pod CIDR yet")
		return errors.Join(errs...)
	}
	mtu, err := reconcileOverlay(want, agent.Overlay == hostconfig.OverlayAlways, k.config.Log)
	if err != nil {
		errs = append(errs, err)
	} else {
		// Pods start only once there is a configuration: after the network
		// they are to be put on.
		for _, f := range families {
			if cidr := want.PodCIDR[f]; cidr.IsValid() && k.rules[f] != nil {
				errs = append(errs, k.rules[f].reconcile(cidr))
			}
		}
		if !k.servicesReady() {
			k.config.Log.Debug("services' rules are not in place yet")
			return errors.Join(errs...)
		}
		errs = append(errs, writeConflist(filepath.Join(agent.CNIConfDir, conflistFile), want.cidrs(), mtu))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if cidrs := want.cidrs(); !slices.Equal(cidrs, k.cidrs) {
		k.config.Log.Info("pod network is ready", "podCIDRs", cidrs, "nodes", len(want.Peers)+1)
		if len(k.rules) > len(cidrs) {
			k.config.Log.Warn("the cluster's pods have IPv6 addresses, but this node joined before: remove it and add it again for its pods to get some")
		}
		k.cidrs = cidrs
	}
	return nil
}

// ownAddresses are this host's: that of the configuration, whose family is the
// outer one, and beside IPv4 the one of IPv6, if pods have such addresses.
func (k *keeper) ownAddresses() (outer family, own map[family]netip.Addr) {
	outer, own = ipv4, map[family]netip.Addr{}
	address, err := netip.ParseAddr(k.config.Agent.Address)
	if err != nil {
		return outer, own
	}
	outer = familyOf(address)
	own[outer] = address
	if outer == ipv4 && k.rules[ipv6] != nil {
		if second, ok := SecondAddress(address); ok {
			own[ipv6] = second
		}
	}
	return outer, own
}

// cidrs are the networks of this node's pods, the primary family's first.
func (want picture) cidrs() []netip.Prefix {
	var list []netip.Prefix
	for _, f := range families {
		if cidr := want.PodCIDR[f]; cidr.IsValid() {
			list = append(list, cidr)
		}
	}
	return list
}

func (k *keeper) servicesReady() bool {
	if k.config.After == nil {
		return true
	}
	select {
	case <-k.config.After:
		return true
	default:
		return false
	}
}

// Remove takes everything of the pod network off the host and puts the
// kernel's settings back. It finds nothing to do when there is nothing, and
// goes on past what fails.
func Remove(log *slog.Logger) error {
	return errors.Join(
		os.RemoveAll(filepath.Join(hostconfig.CNIDir, conflistFile)),
		removeRoutes(),
		removeLinks(),
		removeRules(log),
		restoreSysctls(hostconfig.StateDir, log),
	)
}
