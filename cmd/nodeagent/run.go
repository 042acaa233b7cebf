package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"clusterctl/footprint"
	"clusterctl/hostconfig"
	"clusterctl/nodeagent/announce"
	"clusterctl/nodeagent/apilb"
	"clusterctl/nodeagent/certs"
	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/csi"
	"clusterctl/nodeagent/devices"
	"clusterctl/nodeagent/eviction"
	"clusterctl/nodeagent/ingress"
	"clusterctl/nodeagent/metrics"
	"clusterctl/nodeagent/network"
	"clusterctl/nodeagent/node"
	"clusterctl/nodeagent/plugins"
	"clusterctl/nodeagent/pods"
	"clusterctl/nodeagent/policy"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/server"
	"clusterctl/nodeagent/serviceproxy"
	"clusterctl/nodeagent/staticpods"
	"clusterctl/nodeagent/stats"
	"clusterctl/nodeagent/volumes"
)

// cgroupRoot is where the kernel's control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// run runs the node agent until ctx ends or a part of it fails.
func run(ctx context.Context, config hostconfig.NodeAgent, logger *slog.Logger) (err error) {
	told := ctx // to stop; what follows goes on until pods have been ended
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	defer func() {
		// What cannot begin because a part failed is not the reason.
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
	}()
	start := func(name string, part func() error) {
		group.Go(func() error {
			if err := part(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}

	var shutDown atomic.Pointer[func()]
	start("shutdown", func() error {
		defer stop()
		select {
		case <-told.Done():
		case <-ctx.Done():
			return nil
		}
		if end := shutDown.Load(); end != nil && hostStops() {
			(*end)()
		}
		return nil
	})

	start("memory", func() error {
		footprint.Settle(ctx)
		return nil
	})

	// The load balancer first: everything else reaches the API through it.
	balancing := logger.With("part", "apilb")
	servers := apilb.Learn(config.Cluster.ControlPlanes, filepath.Join(config.StateDir, "apiservers.json"), balancing)
	if config.ListenAPILB != "" {
		first := servers.Servers()
		start("API load balancer", func() error {
			return apilb.Run(ctx, config.ListenAPILB, first, servers.Updates(), balancing)
		})
	}
	pki := hostconfig.PKI(config.PKIDir)
	api := clientConfig(config, pki)
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("make API client: %w", err)
	}
	shared := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(dropManagedFields))
	own := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(dropManagedFields),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", config.NodeName).String()
		}))
	core := shared.Core().V1()
	slices := shared.Discovery().V1().EndpointSlices()
	cidrs := shared.Networking().V1().ServiceCIDRs()
	// A factory starts the informers that were asked for before; the parts
	// below ask in their own time.
	for _, ask := range []func() cache.SharedIndexInformer{core.Nodes().Informer, core.Services().Informer, slices.Informer, cidrs.Informer} {
		ask()
	}
	if err := servers.Follow(slices.Informer()); err != nil {
		return err
	}

	recorder, stopEvents, err := newRecorder(api, config.NodeName)
	if err != nil {
		return err
	}
	defer stopEvents()
	counters := metrics.New(config.NodeName)
	counters.CountRequests()
	services := make(chan struct{}) // closed once their rules are in place
	start("network", func() error {
		return network.Run(ctx, network.Config{Agent: config, Nodes: core.Nodes(), CIDRs: cidrs, Log: logger.With("part", "network"), After: services})
	})
	start("service proxy", func() error {
		return serviceproxy.Run(ctx, serviceproxy.Config{
			Agent: config, Services: core.Services(), Slices: slices, Nodes: core.Nodes(), CIDRs: cidrs,
			Log: logger.With("part", "serviceproxy"), Applied: func() { close(services) },
			Events: recorder("kube-proxy"), Metrics: counters.Registry})
	})
	moreMetrics := serveIngresses(told, ctx, group, ingress.Config{
		Client: client, Ingresses: shared.Networking().V1().Ingresses(), Classes: shared.Networking().V1().IngressClasses(),
		Services: core.Services(), Slices: slices, Nodes: core.Nodes(),
		NodeName: config.NodeName, Log: logger.With("part", "ingress"),
	}, config.Ingress)
	start("load-balancer addresses", func() error {
		return announce.Run(ctx, announce.Config{
			NodeName: config.NodeName, Address: config.Address, Services: core.Services(), Slices: slices, Nodes: core.Nodes(),
			Log: logger.With("part", "announce"),
		})
	})
	hostPorts := network.NewHostPorts(logger.With("part", "network"))
	start("host ports", func() error {
		hostPorts.Run(ctx)
		return nil
	})
	gate := policy.NewGate()
	start("network policies", func() error {
		return policy.Run(ctx, policy.Config{Client: client, Own: own.Core().V1().Pods().Informer(), Gate: gate, Log: logger.With("part", "policy")})
	})
	nodes := core.Nodes().Lister()
	keeper, err := certs.New(ctx, pki, config.NodeName, func() []string {
		known, _ := nodes.Get(config.NodeName) // nil before it is known
		return hostIPs(known, config.Address)
	}, client)
	if err != nil {
		return err
	}
	start("certificates", func() error { return keeper.Run(ctx) })

	cri, err := runtime.Connect(ctx, config.CRISocket, logger.With("part", "runtime"))
	if err != nil {
		return err
	}
	cri.Observe(counters)
	memory, err := stats.ReadMemory()
	if err != nil {
		return err
	}
	limits, err := node.PodsTogether(config)
	if err != nil {
		return err
	}
	driver, err := cri.CgroupDriver(ctx)
	if err != nil {
		return err
	}
	tree, err := cgroups.Open(cgroupRoot, cgroups.Options{Driver: cmp.Or(driver, config.CgroupDriver), PodPIDs: config.PodPIDs, Together: limits})
	if err != nil {
		return err
	}
	root := hostconfig.KubeletDir // the state directory, as published drivers know it
	if err := linkKubeletDir(config.StateDir); err != nil {
		logger.Warn("plugins that insist on this path cannot be used", "path", root, "error", err)
		root = config.StateDir
	}
	drivers := devices.NewDrivers(ctx, client, config.NodeName, logger.With("part", "devices"))
	claims, err := devices.NewClaims(client, drivers, filepath.Join(config.StateDir, "devices", "claims.json"))
	if err != nil {
		return err
	}
	devicePlugins, err := devices.NewPlugins(ctx, filepath.Join(config.StateDir, "device-plugins"), filepath.Join(config.StateDir, "devices", "plugins.json"), logger.With("part", "devices"))
	if err != nil {
		return err
	}
	start("device drivers", func() error { return drivers.Run(ctx) })
	start("device plugins", func() error { return devicePlugins.Run(ctx) })
	evictions, err := eviction.Parse(config.Eviction)
	if err != nil {
		return err
	}
	var agent *pods.Agent
	var self *node.Node
	tokens := volumes.NewTokens(client)
	storage := csi.New(csi.Config{
		NodeName: config.NodeName, Root: root, Client: client,
		Node: func() *v1.Node { return self.Current() }, Report: func() { self.Hurry() }, Token: tokens.ForDriver, Recorder: recorder("kubelet"), Logger: logger.With("part", "csi"),
	})
	self = node.New(node.Config{
		Extended: devicePlugins.Extended, Changed: devicePlugins.Changed(),
		VolumesInUse:  storage.InUse,
		Evictions:     evictions,
		Pressures:     func() []v1.NodeConditionType { return agent.Pressures() },
		Leaving:       func() bool { return agent.ShuttingDown() },
		SecondAddress: secondAddress(config),
		Agent:         config, Client: client, Lister: core.Nodes().Lister(), Runtime: cri, Logger: logger.With("part", "node")})
	agent = pods.New(ctx, pods.Config{
		Eviction: evictions, CollectImages: config.Images, CgroupRoot: cgroupRoot,
		StateDir: config.StateDir, LogDir: hostconfig.PodLogs,
		Domain: config.Cluster.Domain, DNSAddress: config.Cluster.DNSAddress,
		HostIPs: func() []string { return hostIPs(self.Current(), config.Address) }, MemoryCapacity: int64(memory.Total),
		Client: client, Runtime: cri, Cgroups: tree, Devices: &devices.Manager{Claims: claims, Plugins: devicePlugins},
		Services: core.Services().Lister(), Pods: own.Core().V1().Pods().Informer(),
		Static: &staticpods.Folder{Dir: config.ManifestDir, Node: config.NodeName, Logger: logger.With("part", "static pods")},
		Synced: []cache.InformerSynced{core.Services().Informer().HasSynced},
		Tokens: tokens, Drivers: storage,
		Recorder: recorder("kubelet"), Metrics: counters, Logger: logger.With("part", "pods"),
		Node: self.Current, NetworkReady: self.NetworkReady, Guard: gate.Pass, HostPorts: hostPorts,
	})
	claimed := stats.NewVolumes(agent.Volumes.Claimed)
	gatherers := shownMetrics(counters, agent, claimed, cri, logger.With("part", "metrics"))
	end := func() {
		logger.Info("the host goes down: ending pods")
		time.AfterFunc(100*time.Millisecond, self.Hurry)
		agent.Shutdown(ctx, shutdownGroups(config))
	}
	shutDown.Store(&end)
	start("server", func() error {
		return server.Run(ctx, server.Config{
			Listen: fmt.Sprintf(":%d", hostconfig.PortNodeAgent), ClientCA: pki.ClusterCA(), GetCertificate: keeper.Serving,
			NodeName: config.NodeName, Client: client, Pods: agent, Runtime: cri, Volumes: agent.Volumes, LogDir: "/var/log",
			CheckpointDir: filepath.Join(config.StateDir, "checkpoints"),
			Stats:         &stats.Source{NodeName: config.NodeName, StateDir: config.StateDir, Cgroups: cgroupRoot, Runtime: cri, Volumes: claimed, Disks: agent.Disks()},
			Configuration: kubeletConfiguration(config, tree.Driver()),
			Logger:        logger.With("part", "server"), Metrics: gatherers, MoreMetrics: moreMetrics,
		})
	})
	start("pod resources", func() error {
		return (&devices.PodResources{Socket: filepath.Join(config.StateDir, "pod-resources", "kubelet.sock"),
			Devices: &devices.Manager{Claims: claims, Plugins: devicePlugins}, Pods: agent.List, Pod: agent.Pod}).Run(ctx)
	})
	start("node", func() error {
		if err := self.Register(ctx); err != nil {
			return err
		}
		return self.Run(ctx)
	})
	start("pods", func() error { return agent.Run(ctx) })
	start("storage drivers", func() error {
		storage.Run(ctx)
		return nil
	})
	start("strays", func() error {
		if config.CRISocket != "unix://"+hostconfig.CRISock {
			return nil // another runtime looks after its own
		}
		strays := runtime.Strays{
			Tasks: filepath.Join(hostconfig.CtrState, "io.containerd.runtime.v2.task"),
			Runc:  filepath.Join(hostconfig.BinDir, "runc"), Root: filepath.Join(hostconfig.RunDir, "runc"),
			Logger: logger.With("part", "runtime"),
		}
		strays.End(ctx)
		return nil
	})
	start("plugins", func() error {
		registry := &plugins.Registry{
			Dir: filepath.Join(config.StateDir, hostconfig.PluginRegistry), Logger: logger.With("part", "plugins"),
			Handlers: map[string]plugins.Handler{registration.CSIPlugin: storage, registration.DRAPlugin: drivers, registration.DevicePlugin: devicePlugins},
		}
		return registry.Run(ctx)
	})

	own.Start(ctx.Done())
	shared.Start(ctx.Done())
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		logger.Warn("cannot tell systemd that the node agent is up", "error", err)
	}
	return group.Wait()
}

// secondAddress finds the host's IPv6 address, if the cluster's pods have such
// addresses; else it is nil.
func secondAddress(config hostconfig.NodeAgent) func() (netip.Addr, bool) {
	address, err := netip.ParseAddr(config.Address)
	if networks, _ := hostconfig.ParseNetworks(config.Cluster.PodCIDR); err != nil || len(networks) < 2 {
		return nil
	}
	return func() (netip.Addr, bool) { return network.SecondAddress(address) }
}

// hostIPs are the node's addresses as the API has them; before it has any, the
// one that the host is configured with.
func hostIPs(self *v1.Node, address string) []string {
	var list []string
	if self != nil {
		for _, ip := range network.InternalIPs(self) {
			list = append(list, ip.String())
		}
	}
	if len(list) == 0 {
		return []string{address}
	}
	return list
}

// clientConfig is how this node talks to the API: through the load balancer
// on this host, with its own certificate, which is read again when renewed.
func clientConfig(config hostconfig.NodeAgent, pki hostconfig.PKI) *rest.Config {
	address := config.ListenAPILB
	if address == "" && len(config.Cluster.ControlPlanes) > 0 {
		address = config.Cluster.ControlPlanes[0]
	}
	return &rest.Config{
		Host:      "https://" + address,
		UserAgent: "nodeagent/" + hostconfig.Version,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: pki.ClusterCA(), CertFile: pki.Cert(hostconfig.PairNode), KeyFile: pki.Key(hostconfig.PairNode)},
		ContentConfig: rest.ContentConfig{
			ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
		// What the agent asks for, and how often, follows from its pods, and the API
		// servers share out their time by priority: a limit here would only keep
		// statuses waiting while many pods start.
		QPS: -1,
	}
}

// Events may wait, and a burst of them is not to take the API servers' time from
// anything else.
const (
	eventsPerSecond = 50
	eventsBurst     = 100
)

// newRecorder returns what makes a recorder of events for a component, by the name
// that people know it by.
func newRecorder(api *rest.Config, nodeName string) (recorder func(component string) record.EventRecorder, stop func(), err error) {
	limited := rest.CopyConfig(api)
	limited.QPS, limited.Burst = eventsPerSecond, eventsBurst
	client, err := kubernetes.NewForConfig(limited)
	if err != nil {
		return nil, nil, fmt.Errorf("make client for events: %w", err)
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return func(component string) record.EventRecorder {
		return broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: component, Host: nodeName})
	}, broadcaster.Shutdown, nil
}

// dropManagedFields keeps informers small: nobody here asks who set a field.
func dropManagedFields(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}
