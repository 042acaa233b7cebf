package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"clusterctl/nodeagent/csi"
)

// Objects are the ConfigMaps and Secrets of the cluster.
type Objects interface {
	ConfigMap(ctx context.Context, user types.UID, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, user types.UID, namespace, name string) (*v1.Secret, error)
}

// Drivers mount volumes by the Container Storage Interface.
type Drivers interface {
	Mount(ctx context.Context, request csi.Request) (*csi.Mounted, error)
	Grow(ctx context.Context, request csi.Request, claim *v1.PersistentVolumeClaim, mounted *csi.Mounted) error
	// Unmount takes every volume of a driver from a pod's directory.
	Unmount(ctx context.Context, podDir string) error
}

// Config is what a Manager works with.
type Config struct {
	PodsDir     string               // one directory per pod below it
	LocalDir    string               // hostconfig.LocalPathDir
	Client      kubernetes.Interface // for claims and volumes
	Node        func() *v1.Node      // this one; nil: not known yet
	Drivers     Drivers              // nil: none can be used
	Objects     Objects
	Tokens      *Tokens
	Allocatable func() v1.ResourceList // of the node
	Recorder    record.EventRecorder
	Logger      *slog.Logger
}

// Manager prepares volumes. Safe for concurrent use by different pods; calls
// for one pod must follow one another.
type Manager struct {
	Config

	mu          sync.Mutex
	written     map[string]bool                 // volumes whose ownership is settled
	persistents map[types.UID]map[string]placed // by pod and volume: those that are in place
	counted     map[types.UID]map[string]counted
	localMu     sync.Mutex // local volumes are mounted or removed
}

// New makes a manager.
func New(config Config) *Manager {
	return &Manager{Config: config, written: map[string]bool{}, persistents: map[types.UID]map[string]placed{}, counted: map[types.UID]map[string]counted{}}
}

// Mounted are the volumes of a pod, ready to be mounted.
type Mounted struct {
	Sources map[string]Source // by volume name
	Refresh time.Time         // when contents have to be prepared again; zero for never
}

// PodDir is the directory of everything that the agent keeps for the pod.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.PodsDir, string(uid)) }

// used says how the pod's containers use its volumes: some as file systems, some
// as devices. What none uses is not prepared.
func used(pod *v1.Pod) (mounts, devices map[string]bool) {
	mounts, devices = map[string]bool{}, map[string]bool{}
	uses := func(m []v1.VolumeMount, d []v1.VolumeDevice) {
		for i := range m {
			mounts[m[i].Name] = true
		}
		for i := range d {
			devices[d[i].Name] = true
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			uses(list[i].VolumeMounts, list[i].VolumeDevices)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		uses(pod.Spec.EphemeralContainers[i].VolumeMounts, pod.Spec.EphemeralContainers[i].VolumeDevices)
	}
	return mounts, devices
}

// Lacks says whether a container of the pod, which may have come later, uses a
// volume that is not there.
func (m *Mounted) Lacks(pod *v1.Pod) bool {
	mounts, devices := used(pod)
	for i := range pod.Spec.Volumes {
		name := pod.Spec.Volumes[i].Name
		if _, ok := m.Sources[name]; !ok && (mounts[name] || devices[name]) {
			return true
		}
	}
	return false
}

// Prepare makes the volumes that containers of the pod use, or brings their
// contents up to date. It can be called again at any time.
func (m *Manager) Prepare(ctx context.Context, pod *v1.Pod) (*Mounted, error) {
	mounted := &Mounted{Sources: map[string]Source{}}
	if err := os.MkdirAll(m.PodDir(pod.UID), 0o750); err != nil {
		return nil, fmt.Errorf("make pod directory: %w", err)
	}
	mounts, devices := used(pod)
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if !mounts[volume.Name] && !devices[volume.Name] {
			continue
		}
		m.wants(pod.UID, volume.Name, plugin(&volume.VolumeSource))
		var source Source
		var refresh time.Time
		var err error
		if claimName(pod, volume) != "" || volume.CSI != nil {
			source, refresh, err = m.persistent(ctx, pod, volume)
		} else {
			source.Path, refresh, err = m.prepare(ctx, pod, volume)
		}
		if failure := (*csi.Failure)(nil); errors.As(err, &failure) {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", volume.Name, err)
		}
		m.has(pod.UID, volume.Name)
		mounted.Sources[volume.Name] = source
		if !refresh.IsZero() && (mounted.Refresh.IsZero() || refresh.Before(mounted.Refresh)) {
			mounted.Refresh = refresh
		}
	}
	return mounted, nil
}

func (m *Manager) prepare(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (path string, refresh time.Time, err error) {
	source := &volume.VolumeSource
	switch {
	case source.HostPath != nil:
		return source.HostPath.Path, refresh, checkHostPath(source.HostPath)
	case source.Image != nil:
		return "", refresh, nil // the runtime mounts it
	}
	path = m.Directory(pod, volume)
	switch {
	case path == "":
		return "", refresh, errors.New("this kind of volume is not supported by the node agent")
	case source.EmptyDir != nil:
		return path, refresh, m.emptyDir(pod, path, source.EmptyDir)
	}
	contents, refresh, err := m.contents(ctx, pod, volume)
	if err != nil {
		return "", refresh, err
	}
	if source.ConfigMap == nil {
		err = m.memory(path, 0) // secrets never reach a disk
	} else {
		err = os.MkdirAll(path, 0o755)
	}
	if err != nil {
		return "", refresh, fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return "", refresh, fmt.Errorf("open directory to the pod: %w", err)
	}
	changed, err := writeAtomically(path, contents)
	if err != nil {
		return "", refresh, fmt.Errorf("write contents: %w", err)
	}
	if changed || !m.settled(path) {
		if err := setGroup(path, pod, true); err != nil {
			return "", refresh, err
		}
		m.settle(path)
	}
	return path, refresh, nil
}

func (m *Manager) volumeDir(uid types.UID, kind, name string) string {
	return filepath.Join(m.PodDir(uid), "volumes", "kubernetes.io~"+kind, name)
}

// Directory is where the agent keeps the contents of a volume that are the pod's
// alone; empty if they are elsewhere.
func (m *Manager) Directory(pod *v1.Pod, volume *v1.Volume) string {
	kind := ""
	switch source := &volume.VolumeSource; {
	case source.EmptyDir != nil:
		kind = "empty-dir"
	case source.ConfigMap != nil:
		kind = "configmap"
	case source.Secret != nil:
		kind = "secret"
	case source.DownwardAPI != nil:
		kind = "downward-api"
	case source.Projected != nil:
		kind = "projected"
	default:
		return ""
	}
	return m.volumeDir(pod.UID, kind, volume.Name)
}

func (m *Manager) emptyDir(pod *v1.Pod, path string, source *v1.EmptyDirVolumeSource) error {
	if m.settled(path) {
		return nil
	}
	_, err := os.Stat(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	switch medium := source.Medium; {
	case medium == v1.StorageMediumDefault:
		err = os.MkdirAll(path, 0o755)
	case medium == v1.StorageMediumMemory:
		err = m.memory(path, memorySize(pod, source.SizeLimit, m.Allocatable()))
	case onHugePages(medium):
		err = m.hugePages(pod, path, medium)
	default:
		return fmt.Errorf("unknown storage medium %q", medium)
	}
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if fresh {
		if !onHugePages(source.Medium) { // root's and the fsGroup's
			if err := os.Chmod(path, 0o777); err != nil {
				return fmt.Errorf("open directory to the pod: %w", err)
			}
		}
		if err := setGroup(path, pod, false); err != nil {
			return err
		}
	}
	m.settle(path)
	return nil
}

func (m *Manager) settled(path string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written[path]
}

func (m *Manager) settle(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.written[path] = true
}

// Teardown unmounts and removes everything kept for the pod.
func (m *Manager) Teardown(ctx context.Context, uid types.UID) error {
	dir := m.PodDir(uid)
	m.mu.Lock()
	delete(m.persistents, uid)
	delete(m.counted, uid)
	for path := range m.written {
		if strings.HasPrefix(path, dir+"/") {
			delete(m.written, path)
		}
	}
	m.mu.Unlock()
	if m.Tokens != nil {
		m.Tokens.forget(uid)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// What is bound out of drivers' volumes keeps them busy.
	if subpaths := filepath.Join(dir, "volume-subpaths"); exists(subpaths) {
		if err := unmountBelow(subpaths); err != nil {
			return fmt.Errorf("unmount paths in volumes of pod %s: %w", uid, err)
		}
	}
	if m.Drivers != nil {
		if err := m.Drivers.Unmount(ctx, dir); err != nil {
			return err
		}
	}
	if err := unmountBelow(dir); err != nil {
		return fmt.Errorf("unmount volumes of pod %s: %w", uid, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove directory of pod %s: %w", uid, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Pods are the pods that have a directory.
func (m *Manager) Pods() []types.UID {
	entries, _ := os.ReadDir(m.PodsDir)
	uids := make([]types.UID, 0, len(entries))
	for _, e := range entries {
		uids = append(uids, types.UID(e.Name()))
	}
	return uids
}

// unmountBelow unmounts everything at and below dir, the deepest first, and
// fails while anything is left: what is mounted must not be removed.
func unmountBelow(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return b.ID - a.ID })
	for _, mount := range mounts {
		if err := unix.Unmount(mount.Mountpoint, unix.UMOUNT_NOFOLLOW); err != nil {
			if err := unix.Unmount(mount.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", mount.Mountpoint, err)
			}
		}
	}
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	if len(left) > 0 {
		return fmt.Errorf("%d mounts are left, first %s", len(left), left[0].Mountpoint)
	}
	return nil
}
