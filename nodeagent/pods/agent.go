package pods

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/devices"
	"clusterctl/nodeagent/eviction"
	"clusterctl/nodeagent/images"
	"clusterctl/nodeagent/metrics"
	"clusterctl/nodeagent/network"
	"clusterctl/nodeagent/objects"
	"clusterctl/nodeagent/probes"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/stats"
	"clusterctl/nodeagent/volumes"
)

// balancePause is how long changes of what pods were granted are gathered.
const balancePause = time.Second

// Cgroups places pods in the host's control groups; cgroups.Tree does.
type Cgroups interface {
	Parent(pod *v1.Pod) string                       // in the runtime's notation
	Create(pod *v1.Pod, limits cgroups.Limits) error // again to bring limits up to date
	Balance(pods []*v1.Pod) error                    // weighs classes against each other
	Remove(uid types.UID) error
	Pods() []types.UID // that have a group
}

// StaticPods are pods that this host runs without being told by the API;
// staticpods.Folder has them. Watch hands over all of them whenever they
// change, first at once, until ctx ends.
type StaticPods interface {
	Watch(ctx context.Context, set func([]*v1.Pod))
}

// Devices gives pods devices; devices.Manager does.
type Devices interface {
	Prepare(ctx context.Context, pod *v1.Pod) error
	Unprepare(ctx context.Context, pod types.UID) error
	Pods() []types.UID // that have devices
	Access(ctx context.Context, pod *v1.Pod, container *v1.Container) (*devices.Access, error)
	Health(pod *v1.Pod) map[string][]v1.ResourceStatus // by container
	Watch(wake func(types.UID))                        // tells of pods whose devices' health may have changed
}

// HostPorts leads packets to ports of the host to pods; network.HostPorts does.
type HostPorts interface {
	Restore(pods map[types.UID][]network.PortMapping) error
	Set(pod types.UID, ports []network.PortMapping) error
}

// ParallelPulls is how many images come at the same time.
const ParallelPulls = 4

// Config is what the agent's pods need from their surroundings.
type Config struct {
	StateDir       string          // volumes and checkpoints of pods
	LogDir         string          // logs of containers
	Domain         string          // cluster.local
	DNSAddress     string          // of the cluster's DNS service; empty without one
	HostIPs        func() []string // one of each family, the primary one first
	MemoryCapacity int64           // of the host, in bytes
	CgroupRoot     string          // where control groups are mounted; empty: what pods use together is not watched
	Eviction       eviction.Settings
	CollectImages  hostconfig.Images // zero: as Kubernetes does

	Client   kubernetes.Interface
	Runtime  *runtime.Runtime
	Cgroups  Cgroups
	Devices  Devices
	Services corelisters.ServiceLister
	Pods     cache.SharedIndexInformer // of the pods bound to this node
	Static   StaticPods                // nil: none
	Tokens   *volumes.Tokens           // of pods' service accounts; nil: the agent's own
	Drivers  volumes.Drivers           // of storage; nil: none
	Synced   []cache.InformerSynced    // what has to be known before any pod starts
	Recorder record.EventRecorder
	Metrics  *metrics.Agent // nil: nobody reads them
	Logger   *slog.Logger

	Node         func() *v1.Node // this node, as the API has it; nil before it is known
	NetworkReady func() bool     // pods can be given addresses
	// Guard returns once a pod with these addresses may send and receive
	// packets; nil: at once.
	Guard func(context.Context, *v1.Pod) error
	// HostPorts maps ports of the host to pods; nil: nobody does.
	HostPorts HostPorts
}

// Agent runs the pods of this host. Its exported methods are safe for
// concurrent use.
type Agent struct {
	Config
	Volumes *volumes.Manager
	Objects *objects.Cache
	images  *images.Puller
	probes  *probes.Manager
	began   time.Time

	ledger    *ledger
	evictions *eviction.Manager
	collector *images.Collector

	users     *userRanges
	sandboxes *turns      // to be made
	starts    *turns      // of containers
	stops     *turns      // of containers
	ends      *turns      // of sandboxes: stopped and removed
	down      atomic.Bool // the host is going down

	mu      sync.Mutex
	workers map[types.UID]*worker
	statics map[types.NamespacedName]*v1.Pod // as they shall be
	ctx     context.Context                  // of Run; nil before
	wg      sync.WaitGroup
}

// New makes an agent. What it watches ends with ctx.
func New(ctx context.Context, config Config) *Agent {
	a := &Agent{Config: config, workers: map[types.UID]*worker{}, began: time.Now(),
		sandboxes: newTurns(hangs), starts: newTurns(hangs), stops: newTurns(lingers), ends: newTurns(hangs)}
	if a.Metrics == nil {
		a.Metrics = metrics.New("")
	}
	a.ledger = newLedger(config.Node, a.Wake)
	a.evictions = eviction.New(config.Eviction, host{a}, config.Logger)
	a.evictions.Evicted = a.Metrics.Evicted
	a.ledger.refuse, a.ledger.preempt = a.refuse, a.preempt
	a.Objects = objects.New(ctx, config.Client, a.refresh)
	if config.Tokens == nil {
		config.Tokens = volumes.NewTokens(config.Client)
	}
	a.Volumes = volumes.New(volumes.Config{
		PodsDir:     filepath.Join(config.StateDir, "pods"),
		Objects:     a.Objects,
		LocalDir:    hostconfig.LocalPathDir,
		Client:      config.Client,
		Node:        config.Node,
		Tokens:      config.Tokens,
		Drivers:     config.Drivers,
		Allocatable: a.Allocatable,
		Recorder:    config.Recorder,
		Logger:      config.Logger,
	})
	config.Devices.Watch(a.Wake)
	a.images = images.New(config.Runtime.Images, ParallelPulls, filepath.Join(config.StateDir, "images"))
	a.collector = &images.Collector{
		Images: config.Runtime.Images, Puller: a.images, Containers: config.Runtime.RuntimeService, Wanted: a.imageNames,
		When: config.CollectImages.OrDefaults(), Disk: stats.ReadDisk, Warn: host{a}.Warn, Removed: a.Metrics.ImageRemoved, Logger: config.Logger,
	}
	a.users = newUserRanges(a.Volumes.PodDir, a.Volumes.Pods)
	a.probes = probes.New(ctx, a.execSync, a.Wake, a.probed)
	return a
}

// Run runs the pods until ctx ends. Containers go on when it returns.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	a.ctx = ctx
	a.mu.Unlock()
	a.followStatic(ctx)
	synced := append([]cache.InformerSynced{a.Config.Pods.HasSynced}, a.Synced...)
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		a.wg.Wait()
		return nil // ended before anything was known
	}
	a.remember()
	a.restoreHostPorts()
	registration, err := a.Config.Pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.upsert(o.(*v1.Pod)) },
		UpdateFunc: func(_, o any) { a.upsert(o.(*v1.Pod)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if pod, ok := o.(*v1.Pod); ok {
				a.gone(pod)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("follow pods: %w", err)
	}
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		a.wg.Wait()
		return nil
	}
	a.wg.Go(func() { a.Config.Runtime.Watch(ctx, a.stirred) })
	a.wg.Go(func() { a.rotateLogs(ctx) })
	a.wg.Go(func() { a.followClock(ctx) })
	a.wg.Go(func() { a.Volumes.Sweep(ctx) })
	a.wg.Go(func() { a.balance(ctx) })
	a.wg.Go(func() {
		if err := a.images.Recover(ctx); err != nil && ctx.Err() == nil {
			a.Logger.Warn("cannot tell who may use images whose pull was cut off", "error", err)
		}
		a.collector.Run(ctx)
	})
	a.wg.Go(func() { a.evictions.Run(ctx) })
	for a.adoptOrphans(ctx) != nil {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			continue
		}
		break
	}
	<-ctx.Done()
	a.wg.Wait()
	return nil
}

// remember notes what pods were granted before the agent was restarted, so
// that nobody takes it before they come to ask.
func (a *Agent) remember() {
	for _, pod := range a.List() {
		if allotment, err := a.loadAllotment(pod.UID); err == nil && allotment != nil && !finished(pod.Status.Phase) {
			a.ledger.grant(allotment.Granted.of(pod))
		}
	}
}

// balance keeps the weights of the classes in step with what was granted.
func (a *Agent) balance(ctx context.Context) {
	for {
		if err := a.Cgroups.Balance(a.ledger.rooms()); err != nil {
			a.Logger.Warn("cannot weigh pods against each other", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.ledger.changed:
		}
		select { // many changes at once need one answer
		case <-ctx.Done():
			return
		case <-time.After(balancePause):
		}
	}
}

// Wake makes the pod's worker look again.
func (a *Agent) Wake(uid types.UID) {
	a.mu.Lock()
	w := a.workers[uid]
	a.mu.Unlock()
	if w != nil {
		w.poke()
	}
}

// stirred tells the pod's worker what was heard of it from the runtime.
func (a *Agent) stirred(uid types.UID, news runtime.News) {
	a.mu.Lock()
	w := a.workers[uid]
	a.mu.Unlock()
	if w != nil {
		w.stirred(news)
	}
}

// refresh makes the pod's worker read again what its volumes show.
func (a *Agent) refresh(uid types.UID) {
	a.mu.Lock()
	w := a.workers[uid]
	a.mu.Unlock()
	if w != nil {
		w.contentsChanged()
	}
}

// Allocatable is what this node gives to pods.
func (a *Agent) Allocatable() v1.ResourceList {
	if node := a.Config.Node(); node != nil {
		return node.Status.Allocatable
	}
	return nil
}

// Pod finds a pod of this host; nil if there is none.
func (a *Agent) Pod(namespace, name string) *v1.Pod {
	item, exists, err := a.Config.Pods.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !exists {
		return nil
	}
	return a.shown(item.(*v1.Pod))
}

// List are the pods of this host.
func (a *Agent) List() []*v1.Pod {
	items := a.Config.Pods.GetStore().List()
	list := make([]*v1.Pod, 0, len(items))
	for _, item := range items {
		list = append(list, a.shown(item.(*v1.Pod)))
	}
	return list
}

func (a *Agent) upsert(pod *v1.Pod) {
	if isMirror(pod) {
		a.mirrored(pod, false)
		return
	}
	a.mu.Lock()
	w := a.workers[pod.UID]
	if w == nil {
		a.hire(pod, false)
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	w.update(pod)
}

func (a *Agent) gone(pod *v1.Pod) {
	if isMirror(pod) {
		a.mirrored(pod, true)
		return
	}
	a.mu.Lock()
	w := a.workers[pod.UID]
	a.mu.Unlock()
	if w != nil {
		w.delete(pod)
	}
}

// hire starts a worker. a.mu is held.
func (a *Agent) hire(pod *v1.Pod, orphan bool) {
	w := newWorker(a, pod, orphan)
	a.workers[pod.UID] = w
	if w.static {
		item, _, _ := a.Config.Pods.GetStore().GetByKey(w.name.String())
		if mirror, ok := item.(*v1.Pod); ok && isMirror(mirror) {
			w.mirrored(mirror, false) // of its predecessor, or of its own before a restart
		}
	}
	ctx := a.ctx
	a.wg.Go(func() {
		w.run(ctx)
		a.mu.Lock()
		delete(a.workers, pod.UID)
		a.left(w)
		a.mu.Unlock()
	})
}

// adoptOrphans finds what is on the host of pods that the API has no more,
// and has it taken away.
func (a *Agent) adoptOrphans(ctx context.Context) error {
	known, err := a.Config.Runtime.UIDs(ctx)
	if err != nil {
		a.Logger.Warn("cannot look for pods that are gone", "error", err)
		return err
	}
	for _, uid := range slices.Concat(a.Volumes.Pods(), a.Cgroups.Pods(), a.Devices.Pods()) {
		if _, ok := known[uid]; !ok {
			known[uid] = types.NamespacedName{}
		}
	}
	for uid, name := range podsWithLogs(a.LogDir) {
		if known[uid].Name == "" {
			known[uid] = name
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, name := range known {
		if a.workers[uid] == nil {
			a.Logger.Info("taking away a pod that is gone", "pod", name.String(), "uid", uid)
			a.hire(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Namespace: name.Namespace, Name: name.Name}}, true)
		}
	}
	return nil
}

func (a *Agent) probed(pod *v1.Pod, c *v1.Container, reason, message string) {
	a.event(pod, c.Name, v1.EventTypeWarning, reason, message)
}

// event records an event of the pod, or of one of its containers.
func (a *Agent) event(pod *v1.Pod, container, kind, reason, message string) {
	if pod.Namespace == "" {
		return // an orphan: nobody would find the event
	}
	ref := reference(pod)
	if container != "" {
		ref.FieldPath = fieldPath(pod, container)
	}
	a.Recorder.Event(ref, kind, reason, message)
}

// annotatedEvent is event with more for programs to read.
func (a *Agent) annotatedEvent(pod *v1.Pod, annotations map[string]string, kind, reason, message string) {
	if pod.Namespace != "" {
		a.Recorder.AnnotatedEventf(reference(pod), annotations, kind, reason, "%s", message)
	}
}

func reference(pod *v1.Pod) *v1.ObjectReference {
	return &v1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
}

func fieldPath(pod *v1.Pod, container string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return fmt.Sprintf("spec.initContainers{%s}", container)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			return fmt.Sprintf("spec.ephemeralContainers{%s}", container)
		}
	}
	return fmt.Sprintf("spec.containers{%s}", container)
}

// ProbeMetrics are what came of probes.
func (a *Agent) ProbeMetrics() prometheus.Collector { return a.probes }
