package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
)

// Config is what Run needs to know.
type Config struct {
	Client kubernetes.Interface      // may list policies, namespaces and all pods
	Own    cache.SharedIndexInformer // of this node's pods; started by the caller
	Gate   *Gate                     // holds pods back that policies select; nil: nobody passes one
	Log    *slog.Logger
}

const (
	// settle is how long to wait for more after a change: a rollout changes
	// many things within a moment.
	settle = 20 * time.Millisecond
	// pause is the least time between two changes of the kernel's rules.
	pause = 100 * time.Millisecond
	// inspect is how often to see whether others have removed our table.
	inspect = 30 * time.Second
	// Failed attempts are repeated after retryMin, then twice as long each
	// time.
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// bridgeFilter says whether packets between pods of one node pass the filter.
var bridgeFilter = map[family]string{
	ipv4: "/proc/sys/net/bridge/bridge-nf-call-iptables",
	ipv6: "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
}

// Run keeps the kernel's rules as the cluster's policies ask, until ctx ends;
// then it returns nil and leaves the rules at work. What fails is logged and
// tried again.
func Run(ctx context.Context, config Config) error { return run(ctx, config, 0) }

// run is Run in a network namespace; zero is the thread's.
func run(ctx context.Context, config Config, netns int) error {
	if config.Gate == nil {
		config.Gate = NewGate()
	}
	e := &enforcer{config: config, changed: make(chan struct{}, 1)}
	for _, f := range families {
		e.kernels = append(e.kernels, &kernel{family: f, netns: netns})
	}
	factory := informers.NewSharedInformerFactoryWithOptions(config.Client, 0, informers.WithTransform(slim))
	policies := factory.Networking().V1().NetworkPolicies()
	e.policies = policies.Lister()
	var synced []cache.InformerSynced
	for _, informer := range []cache.SharedIndexInformer{policies.Informer(), config.Own} {
		registration, err := informer.AddEventHandler(waker(e.wake))
		if err != nil {
			return fmt.Errorf("watch policies: %w", err)
		}
		defer func() { _ = informer.RemoveEventHandler(registration) }()
		synced = append(synced, registration.HasSynced)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	config.Gate.selected, config.Gate.wake = e.selects, e.wake
	close(config.Gate.open)
	e.loop(ctx)
	return nil
}

// enforcer is the enforcement at work.
type enforcer struct {
	config   Config
	kernels  []*kernel // one of each family
	policies networkinglisters.NetworkPolicyLister
	peers    *peers // nil while no policy selects a pod of this node
	changed  chan struct{}
	warned   bool // that packets between pods of this node are not seen
}

func (e *enforcer) wake() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// loop brings the rules up to date whenever something changed, and inspects
// them now and then, until ctx ends.
func (e *enforcer) loop(ctx context.Context) {
	defer func() {
		if e.peers != nil {
			e.peers.close()
		}
	}()
	var retry time.Duration
	for {
		wait := inspect
		if err := e.sync(ctx); err != nil {
			retry = min(max(2*retry, retryMin), retryMax)
			wait = retry
			e.config.Log.Error("network policies are not enforced as they should be", "err", err, "retry", retry)
		} else {
			retry = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-e.changed:
			timer.Stop()
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
		case <-timer.C:
			if err := e.inspect(); err != nil {
				e.config.Log.Error("cannot inspect the rules of network policies", "err", err)
			}
		}
	}
}

// selects tells whether any policy selects a pod.
func (e *enforcer) selects(pod *corev1.Pod) bool {
	policies, err := e.policies.NetworkPolicies(pod.Namespace).List(labels.Everything())
	return err != nil || isolated(policies, []*corev1.Pod{pod})
}

// sync makes the kernel's rules what they have to be, and lets pods pass that
// waited for them.
func (e *enforcer) sync(ctx context.Context) error {
	own, turn := e.config.Gate.merge(e.config.Own.GetStore())
	if err := e.enforce(ctx, own); err != nil {
		return err
	}
	e.config.Gate.reached(turn)
	return nil
}

func (e *enforcer) enforce(ctx context.Context, own []*corev1.Pod) error {
	start := time.Now()
	policies, err := e.policies.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list network policies: %w", err)
	}
	if !isolated(policies, own) {
		var errs []error
		for _, k := range e.kernels {
			changed, err := k.apply(nil)
			if changed {
				e.config.Log.Info("no network policy selects a pod of this node any more")
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if e.peers == nil {
		if e.peers, err = watchPeers(ctx, e.config.Client, e.wake); err != nil {
			return err
		}
	}
	if err := e.await(ctx); err != nil {
		return err
	}
	pods, err := e.peers.pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	namespaces, err := e.peers.namespaces.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	var errs []error
	for _, k := range e.kernels {
		want := paint(cluster{policies: policies, own: own, pods: pods, namespaces: namespaces}, k.family)
		changed, err := k.apply(want)
		errs = append(errs, err)
		if changed && want != nil {
			e.config.Log.Debug("network policies brought up to date", "isolated", len(want.sets[setSelf].members),
				"sets", len(want.sets), "chains", len(want.chains), "took", time.Since(start))
			e.warn(k.family)
		}
	}
	return errors.Join(errs...)
}

// patience is how long to wait for the cluster's pods before saying so.
const patience = 15 * time.Second

// await waits until all pods and namespaces are known. Until then the rules
// stay as they are.
func (e *enforcer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), e.peers.synced...) {
		return errors.New("the cluster's pods and namespaces are not known yet")
	}
	return nil
}

// inspect notices that somebody has removed the table, and stops watching
// the cluster's pods if nobody asks for them any more.
func (e *enforcer) inspect() error {
	var errs []error
	idle := true
	for _, k := range e.kernels {
		idle = idle && k.known && k.applied == nil
		if k.applied == nil {
			continue
		}
		exists, err := k.exists()
		if err == nil && !exists {
			e.config.Log.Warn("somebody has removed the rules of network policies: writing them again")
			k.forget()
		}
		errs = append(errs, err)
	}
	if idle && e.peers != nil {
		e.peers.close()
		e.peers = nil
	}
	return errors.Join(errs...)
}

// warn says once if the kernel does not show us packets that stay on a bridge.
func (e *enforcer) warn(f family) {
	value, err := os.ReadFile(bridgeFilter[f])
	if e.warned || err == nil && strings.TrimSpace(string(value)) == "1" {
		return
	}
	e.warned = true
	e.config.Log.Warn("network policies do not hold between pods of this node: load br_netfilter and set the sysctl", "sysctl", bridgeFilter[f])
}

// Remove takes every rule of network policies off the host. It finds nothing
// to do when there is nothing.
func Remove(log *slog.Logger) error {
	var errs []error
	for _, f := range families {
		k := &kernel{family: f}
		if _, err := k.exists(); err != nil {
			log.Debug("no nftables, no rules of network policies", "err", err)
			continue
		}
		_, err := k.apply(nil)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
