package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	coreinformers "k8s.io/client-go/informers/core/v1"
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
// logged and tried again; the error that Run returns is about the host itself
// and will not go away: it lacks a program.
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
	rules, err := newRules()
	if err != nil {
		return err
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
	keeper := &keeper{config: config, rules: rules}
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
	rules  *rules
	cidr   string // as last configured, to log changes of it only
}

func (k *keeper) reconcile() error {
	agent := k.config.Agent
	nodes, err := k.config.Nodes.Lister().List(everything)
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	want := draw(nodes, agent.NodeName, agent.Address, k.config.Log)
	if cidr, err := netip.ParsePrefix(agent.Cluster.ServiceCIDR); err == nil {
		want.ServiceCIDR = cidr.Masked()
	}
	errs := []error{setSysctls(agent.StateDir, hostSysctls, k.config.Log)}
	if !want.PodCIDR.IsValid() {
		k.config.Log.Debug("node has no pod CIDR yet")
		return errors.Join(errs...)
	}
	mtu, err := reconcileOverlay(want, k.config.Log)
	if err != nil {
		errs = append(errs, err)
	} else {
		// Pods start only once there is a configuration: after the network
		// they are to be put on.
		errs = append(errs, k.rules.reconcile(want.PodCIDR, agent.Cluster.PodCIDR))
		if !k.servicesReady() {
			k.config.Log.Debug("services' rules are not in place yet")
			return errors.Join(errs...)
		}
		errs = append(errs, writeConflist(filepath.Join(agent.CNIConfDir, conflistFile), want.PodCIDR, mtu))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if cidr := want.PodCIDR.String(); cidr != k.cidr {
		k.config.Log.Info("pod network is ready", "podCIDR", cidr, "nodes", len(want.Peers)+1)
		k.cidr = cidr
	}
	return nil
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
		removeLinks(),
		removeRules(log),
		restoreSysctls(hostconfig.StateDir, log),
	)
}
