package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostop"
	"clusterctl/ui"
	"clusterctl/ui/sources"
)

func newUICommand() *cobra.Command {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	var overrides clientcmd.ConfigOverrides
	var inventoryPath string
	c := &cobra.Command{
		Use:   "ui",
		Short: "Open the dashboard",
		Long: `Open the dashboard on the kubeconfig's current context. With an inventory it
shows the hosts and the etcd members too.`,
		Example: `  clusterctl ui
  clusterctl ui --inventory inventory.yaml
  clusterctl ui --context prod --namespace shop`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &overrides)
			config, err := loader.ClientConfig()
			if err != nil {
				return fmt.Errorf("read the kubeconfig: %w", err)
			}
			raw, err := loader.RawConfig()
			if err != nil {
				return fmt.Errorf("read the kubeconfig: %w", err)
			}
			name := raw.CurrentContext
			if overrides.CurrentContext != "" {
				name = overrides.CurrentContext
			}
			cluster, err := sources.NewCluster(name, config)
			if err != nil {
				return err
			}
			options := ui.Options{Cluster: cluster, Namespace: overrides.Context.Namespace}
			if inventoryPath != "" {
				inv, err := inventory.Load(inventoryPath)
				if err != nil {
					return err
				}
				machines := &machines{inventory: inv}
				defer func() { err = errors.Join(err, machines.close()) }()
				options.Hosts = machines
			}
			return ui.Run(c.Context(), options)
		},
	}
	flags := c.Flags()
	flags.StringVar(&inventoryPath, "inventory", "", "inventory of the cluster's hosts, for :hosts and :etcd")
	flags.StringVar(&rules.ExplicitPath, "kubeconfig", "", "kubeconfig to read (default: $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&overrides.CurrentContext, "context", "", "context of the kubeconfig (default: the current one)")
	flags.StringVarP(&overrides.Context.Namespace, "namespace", "n", "", "namespace to begin with (default: all)")
	return c
}

// machines answers the dashboard's questions about hosts. It connects when it
// is first asked, and again to hosts that were not reached.
type machines struct {
	inventory *inventory.Inventory
	mu        sync.Mutex // a fleet answers one question at a time
	fleet     *fleet
}

// connected makes sure that whoever can be reached is. mu is held.
func (m *machines) connected(ctx context.Context) error {
	if m.fleet != nil {
		for name, hand := range m.fleet.hands {
			select {
			case <-hand.Done():
				delete(m.fleet.hands, name)
			default:
			}
		}
		if len(m.fleet.hands) == len(m.inventory.Present()) {
			return nil
		}
		if err := m.fleet.Close(); err != nil {
			return fmt.Errorf("close connections: %w", err)
		}
	}
	f, err := connectTo(ctx, m.inventory)
	m.fleet = f
	if f == nil {
		return err
	}
	return nil // hosts that do not answer are shown as such
}

// Hosts implements sources.Hosts.
func (m *machines) Hosts(ctx context.Context) ([]sources.Host, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connected(ctx); err != nil {
		return nil, err
	}
	present := m.inventory.Present()
	list := make([]sources.Host, len(present))
	var group sync.WaitGroup
	for i, h := range present {
		roles := make([]string, len(h.Roles))
		for j, r := range h.Roles {
			roles[j] = string(r)
		}
		list[i] = sources.Host{Name: h.Name, Address: h.Address, Roles: strings.Join(roles, ","), State: "unreachable"}
		if m.fleet.hands[h.Name] == nil {
			continue
		}
		group.Go(func() {
			var facts hostop.Facts
			if m.fleet.call(ctx, h.Name, hostop.MethodFacts, nil, &facts) != nil {
				return // shown as unreachable
			}
			list[i].State, list[i].Version, list[i].Services = "reachable", facts.Installed, facts.Services
			list[i].Memory, list[i].DiskFree = facts.Memory, facts.Disks["/var/lib"].Free
		})
	}
	group.Wait()
	return list, nil
}

// Etcd implements sources.Hosts.
func (m *machines) Etcd(ctx context.Context) (hostop.EtcdStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connected(ctx); err != nil {
		return hostop.EtcdStatus{}, err
	}
	failure := errors.New("no host of an etcd member can be reached")
	for _, h := range m.inventory.EtcdMembers() {
		if m.fleet.hands[h.Name] == nil {
			continue
		}
		var status hostop.EtcdStatus
		if failure = m.fleet.call(ctx, h.Name, hostop.MethodEtcd, nil, &status); failure == nil {
			return status, nil
		}
		failure = fmt.Errorf("ask %s: %w", h.Name, failure)
	}
	return hostop.EtcdStatus{}, failure
}

func (m *machines) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fleet == nil {
		return nil
	}
	return m.fleet.Close()
}
