package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	events "k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"

	"clusterctl/nodeagent/plugins"
)

// callTimeout bounds one call of a driver, as upstream does.
const callTimeout = 2 * time.Minute

// Config is what a Manager works with.
type Config struct {
	NodeName string
	Root     string // the agent's state directory, as drivers know it
	Client   kubernetes.Interface
	Node     func() *v1.Node // this one; nil: not known yet
	// Report has the node's status tell soon what InUse names; nil: it does in time.
	Report func()
	// Token makes a token of the pod's service account, for a driver that wants
	// one.
	Token    func(ctx context.Context, pod *v1.Pod, audience string, seconds *int64) (token string, expires time.Time, err error)
	Recorder events.EventRecorder
	Logger   *slog.Logger
}

// Manager knows the drivers and mounts their volumes. Safe for concurrent use.
type Manager struct {
	Config

	mu      sync.Mutex
	drivers map[string]*driver
	busy    map[string]*volumeLock // by volume
	staged  map[string]bool        // volumes that this process staged
	sizes   map[string]growth      // of volumes that this process mounted
	without map[string]bool        // drivers that do without attaching
	unused  chan struct{}          // volumes may have to be unstaged
	changed chan struct{}          // drivers came or went

	object sync.Mutex // CSINode is changed
}

// driver is one that registered.
type driver struct {
	name   string
	socket string // of its registration: tells one that was replaced
	conn   *grpc.ClientConn
	csi.NodeClient
	stages, expands, groups, singleWriter, stats bool
}

// New makes a manager.
func New(config Config) *Manager {
	return &Manager{Config: config, drivers: map[string]*driver{}, busy: map[string]*volumeLock{}, staged: map[string]bool{}, sizes: map[string]growth{}, unused: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// poke has the loop that reads from c look once more.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// driver finds a driver that registered.
func (m *Manager) driver(name string) (*driver, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.drivers[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// Register implements plugins.Handler.
func (m *Manager) Register(ctx context.Context, p plugins.Plugin) error {
	if !slices.ContainsFunc(p.Versions, func(v string) bool { return v == "1" || len(v) > 1 && (v[:2] == "1." || v[:2] == "v1") }) {
		return fmt.Errorf("none of the CSI versions %v reported by driver %s are supported", p.Versions, p.Name)
	}
	conn, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return fmt.Errorf("connect to driver: %w", err)
	}
	d := &driver{name: p.Name, socket: p.Socket, conn: conn, NodeClient: csi.NewNodeClient(conn)}
	info, err := d.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err == nil {
		err = d.learn(ctx)
	}
	if err == nil && info.NodeId == "" {
		err = errors.New("driver reports no node id")
	}
	if err == nil {
		err = m.announce(ctx, p.Name, info)
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("register driver %s: %w", p.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.drivers[p.Name]; old != nil {
		old.conn.Close()
	}
	m.drivers[p.Name] = d
	poke(m.unused)
	poke(m.changed)
	return nil
}

func (d *driver) learn(ctx context.Context) error {
	can, err := d.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return fmt.Errorf("ask what it can do: %w", err)
	}
	for _, c := range can.Capabilities {
		switch c.GetRpc().GetType() {
		case csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME:
			d.stages = true
		case csi.NodeServiceCapability_RPC_EXPAND_VOLUME:
			d.expands = true
		case csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP:
			d.groups = true
		case csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER:
			d.singleWriter = true
		case csi.NodeServiceCapability_RPC_GET_VOLUME_STATS:
			d.stats = true
		}
	}
	return nil
}

// Deregister implements plugins.Handler. A driver that has registered anew by
// another socket stays.
func (m *Manager) Deregister(ctx context.Context, p plugins.Plugin) {
	m.mu.Lock()
	d := m.drivers[p.Name]
	mine := d != nil && d.socket == p.Socket
	if mine {
		delete(m.drivers, p.Name)
		d.conn.Close()
	}
	m.mu.Unlock()
	if !mine {
		return
	}
	poke(m.changed)
	if err := m.withdraw(ctx, p.Name); err != nil && ctx.Err() == nil {
		m.Logger.Warn("CSINode still names a driver that is gone", "driver", p.Name, "error", err)
	}
}

// announce writes what the driver said of this node into CSINode, and its
// topology into the node's labels.
func (m *Manager) announce(ctx context.Context, name string, info *csi.NodeGetInfoResponse) error {
	topology := info.GetAccessibleTopology().GetSegments()
	entry := storagev1.CSINodeDriver{Name: name, NodeID: info.NodeId, TopologyKeys: slices.Sorted(maps.Keys(topology))}
	if limit := info.MaxVolumesPerNode; limit > 0 {
		count := int32(min(limit, 1<<31-1))
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	if err := m.label(ctx, topology); err != nil {
		return err
	}
	return m.change(ctx, func(drivers []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		if at := slices.IndexFunc(drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name }); at >= 0 {
			drivers[at] = entry
			return drivers
		}
		return append(drivers, entry)
	})
}

func (m *Manager) withdraw(ctx context.Context, name string) error {
	return m.change(ctx, func(drivers []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		return slices.DeleteFunc(drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name })
	})
}

// change changes the drivers of this node's CSINode.
func (m *Manager) change(ctx context.Context, edit func([]storagev1.CSINodeDriver) []storagev1.CSINodeDriver) error {
	m.object.Lock()
	defer m.object.Unlock()
	nodes := m.Client.StorageV1().CSINodes()
	return retry.OnError(retry.DefaultBackoff, func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }, func() error {
		have, err := nodes.Get(ctx, m.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			node := m.Node()
			if node == nil {
				return errors.New("this node is not registered yet")
			}
			_, err = nodes.Create(ctx, &storagev1.CSINode{
				ObjectMeta: metav1.ObjectMeta{Name: m.NodeName, OwnerReferences: []metav1.OwnerReference{{
					APIVersion: v1.SchemeGroupVersion.String(), Kind: "Node", Name: node.Name, UID: node.UID}}},
				Spec: storagev1.CSINodeSpec{Drivers: edit([]storagev1.CSINodeDriver{})},
			}, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return fmt.Errorf("read CSINode: %w", err)
		}
		drivers := edit(slices.Clone(have.Spec.Drivers))
		if equality.Semantic.DeepEqual(drivers, have.Spec.Drivers) {
			return nil
		}
		have.Spec.Drivers = drivers
		_, err = nodes.Update(ctx, have, metav1.UpdateOptions{})
		return err
	})
}

// label gives the node the labels of a driver's topology.
func (m *Manager) label(ctx context.Context, topology map[string]string) error {
	node := m.Node()
	if node == nil {
		return errors.New("this node is not registered yet")
	}
	for key, value := range topology {
		if have, ok := node.Labels[key]; ok && have != value {
			return fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, value, key, have)
		}
	}
	if len(topology) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": topology}})
	if err != nil {
		return fmt.Errorf("encode labels: %w", err)
	}
	if _, err := m.Client.CoreV1().Nodes().Patch(ctx, m.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label node with topology: %w", err)
	}
	return nil
}

// volumeLock lets one thing at a time be done to a volume.
type volumeLock struct {
	sync.Mutex
	users int
}

func (m *Manager) lock(key string) (unlock func()) {
	m.mu.Lock()
	l := m.busy[key]
	if l == nil {
		l = &volumeLock{}
		m.busy[key] = l
	}
	l.users++
	m.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(m.busy, key)
		}
	}
}
