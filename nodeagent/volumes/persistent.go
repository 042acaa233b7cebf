package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/nodeagent/csi"
)

// Source is where a volume of a pod is on the host.
type Source struct {
	Path     string // directory or file to mount; empty for a block volume
	Device   string // of a block volume
	ReadOnly bool   // whatever the container's mount says
	Group    string // that may use it, as its PersistentVolume says; empty for none
}

// claimName is the claim behind a volume; empty: there is none.
func claimName(pod *v1.Pod, v *v1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// persistent prepares a volume that a claim stands for, or that a driver makes
// for the pod, and says when it is to be looked at again.
func (m *Manager) persistent(ctx context.Context, pod *v1.Pod, v *v1.Volume) (Source, time.Time, error) {
	m.mu.Lock()
	known, ok := m.persistents[pod.UID][v.Name]
	m.mu.Unlock()
	if ok && (known.again.IsZero() || time.Now().Before(known.again)) {
		return known.Source, known.again, nil // a claim never gets another volume
	}
	fresh, err := m.place(ctx, pod, v, known.mounted)
	if err != nil && ok {
		// What is mounted stays so.
		m.Logger.Warn("cannot refresh volume", "pod", pod.Namespace+"/"+pod.Name, "volume", v.Name, "error", err)
		fresh, err = known, nil
		fresh.again = time.Now().Add(driverPeriod)
	}
	if err != nil {
		return Source{}, time.Time{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.persistents[pod.UID] == nil {
		m.persistents[pod.UID] = map[string]placed{}
	}
	fresh.namespace, fresh.claim = pod.Namespace, claimName(pod, v)
	m.persistents[pod.UID][v.Name] = fresh
	return fresh.Source, fresh.again, nil
}

// placed is a volume that is in place.
type placed struct {
	Source
	mounted   *csi.Mounted // by a driver; nil: by none
	again     time.Time    // when it is to be looked at again; zero: never
	namespace string
	claim     string // empty: the pod's own
}

// Claimed is a volume of a pod with a claim and a file system.
type Claimed struct {
	Pod              types.UID
	Namespace, Claim string
	Volume           string // its name in the pod
	Path             string
}

// Claimed are the volumes in place that claims stand for, in no order.
func (m *Manager) Claimed() []Claimed {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Claimed
	for uid, volumes := range m.persistents {
		for name, v := range volumes {
			if v.claim != "" && v.Path != "" {
				list = append(list, Claimed{uid, v.namespace, v.claim, name, v.Path})
			}
		}
	}
	return list
}

// place puts a volume in place, or looks at it again: before is what its driver
// mounted, nil at first.
func (m *Manager) place(ctx context.Context, pod *v1.Pod, v *v1.Volume, before *csi.Mounted) (placed, error) {
	if v.CSI != nil {
		return m.driven(ctx, csi.Request{Pod: pod, Volume: v}, nil, before)
	}
	claim, pv, err := m.bound(ctx, pod, v)
	if err != nil {
		return placed{}, err
	}
	m.wants(pod.UID, v.Name, pluginOf(pv))
	in, err := m.placeBound(ctx, pod, v, claim, pv, before)
	in.Group = pv.Annotations[groupAnnotation]
	return in, err
}

// groupAnnotation is of PersistentVolumes that a group of the host may use.
const groupAnnotation = "pv.beta.kubernetes.io/gid"

// Groups are the groups that a pod's processes have to be in for its volumes,
// beside those that its spec names.
func (m *Mounted) Groups(pod *v1.Pod) []int64 {
	var list []int64
	for _, source := range m.Sources {
		gid, err := strconv.ParseInt(source.Group, 10, 64)
		if err != nil || slices.Contains(list, gid) || pod.Spec.SecurityContext != nil && slices.Contains(pod.Spec.SecurityContext.SupplementalGroups, gid) {
			continue
		}
		list = append(list, gid)
	}
	slices.Sort(list)
	return list
}

func (m *Manager) placeBound(ctx context.Context, pod *v1.Pod, v *v1.Volume, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume, before *csi.Mounted) (in placed, err error) {
	source := Source{ReadOnly: v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly}
	block := ptr.Deref(pv.Spec.VolumeMode, v1.PersistentVolumeFilesystem) == v1.PersistentVolumeBlock
	switch {
	case pv.Spec.HostPath != nil && !block:
		source.Path = pv.Spec.HostPath.Path
		err = checkHostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil && block:
		source.Device, err = pv.Spec.Local.Path, checkDevice(pv.Spec.Local.Path)
	case pv.Spec.Local != nil:
		source.Path = m.volumeDir(pod.UID, localVolumes, pv.Name)
		err = m.local(pod, pv, source)
	case pv.Spec.CSI != nil:
		return m.driven(ctx, csi.Request{Pod: pod, Volume: v, PV: pv, ReadOnly: source.ReadOnly}, claim, before)
	default:
		err = fmt.Errorf("persistent volume %q is of a kind that the node agent does not support", pv.Name)
	}
	return placed{Source: source}, err
}

// driverPeriod is how often volumes of drivers are looked at again: whether they
// grew, and for drivers that want to publish anew.
const driverPeriod = time.Minute

// driven has a driver mount a volume, and its file system follow it where that
// grew. What is mounted is mounted again only if the driver wants that.
func (m *Manager) driven(ctx context.Context, request csi.Request, claim *v1.PersistentVolumeClaim, before *csi.Mounted) (placed, error) {
	mounted := before
	if before == nil || before.Repeat {
		var err error
		if mounted, err = m.Drivers.Mount(ctx, request); err != nil {
			return placed{}, err
		}
		if mounted.Group {
			if err := setGroup(mounted.Path, request.Pod, false); err != nil {
				return placed{}, fmt.Errorf("applyFSGroup failed for vol %s: %w", mounted.Handle, err)
			}
		}
	}
	in := placed{Source: Source{Path: mounted.Path, ReadOnly: request.ReadOnly}, mounted: mounted}
	if mounted.Block {
		in.Path, in.Device = "", mounted.Path
	}
	if claim != nil {
		if err := m.Drivers.Grow(ctx, request, claim, mounted); err != nil && before == nil {
			return placed{}, fmt.Errorf("MountVolume.Setup failed while expanding volume: %w", err)
		} else if err != nil && ctx.Err() == nil {
			m.Recorder.Eventf(request.Pod, v1.EventTypeWarning, "VolumeResizeFailed", "NodeExpandVolume.NodeExpandVolume failed for volume %q : %v", request.PV.Name, err)
		}
	}
	if claim != nil || mounted.Repeat {
		in.again = time.Now().Add(driverPeriod)
	}
	return in, nil
}

// bound reads the claim behind a pod's volume and what it is bound to.
func (m *Manager) bound(ctx context.Context, pod *v1.Pod, v *v1.Volume) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error) {
	name := claimName(pod, v)
	claim, err := m.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case claim.DeletionTimestamp != nil && !m.exists(pod):
		return nil, nil, errors.New("can't start pod because PVC is being deleted")
	case claim.Status.Phase != v1.ClaimBound || claim.Spec.VolumeName == "":
		return nil, nil, fmt.Errorf("PVC %s/%s is not bound", claim.Namespace, claim.Name)
	}
	pv, err := m.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("failed to get PV %s from API server: %w", claim.Spec.VolumeName, err)
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return nil, nil, fmt.Errorf("pv.Spec.ClaimRef of %s does not point to PVC %s/%s", pv.Name, claim.Namespace, claim.Name)
	}
	mode := ptr.Deref(pv.Spec.VolumeMode, v1.PersistentVolumeFilesystem)
	mounts, devices := used(pod)
	switch {
	case mounts[v.Name] && mode != v1.PersistentVolumeFilesystem:
		return nil, nil, fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", v.Name, mode)
	case devices[v.Name] && mode != v1.PersistentVolumeBlock:
		return nil, nil, fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", v.Name, mode)
	}
	if node := m.Node(); node != nil {
		if err := volume.CheckNodeAffinity(pv, node.Labels); err != nil {
			return nil, nil, fmt.Errorf("storage node affinity check failed for volume %q: %w", pv.Name, err)
		}
	}
	return claim, pv, nil
}

// exists says whether the pod has volumes on this host already: an agent that
// was restarted goes on with what it began.
func (m *Manager) exists(pod *v1.Pod) bool {
	entries, err := os.ReadDir(filepath.Join(m.PodDir(pod.UID), "volumes"))
	return err == nil && len(entries) > 0
}

// local binds the directory of a local volume into the pod's.
func (m *Manager) local(pod *v1.Pod, pv *v1.PersistentVolume, source Source) error {
	from := pv.Spec.Local.Path
	m.localMu.Lock() // against its removal
	defer m.localMu.Unlock()
	if own, ok := m.ownLocal(pv); ok {
		if err := makeLocal(own); err != nil {
			return err
		}
	}
	info, err := os.Stat(from)
	switch {
	case err != nil:
		return fmt.Errorf("path %q does not exist: %w", from, err)
	case !info.IsDir():
		return fmt.Errorf("local volume %s is not a directory: for a device use volumeMode Block", from)
	}
	if err := m.bind(from, source.Path); err != nil {
		return err
	}
	if source.ReadOnly || m.settled(source.Path) {
		return nil
	}
	if err := setGroup(source.Path, pod, false); err != nil {
		return err
	}
	m.settle(source.Path)
	return nil
}

// bind makes to show what is at from, unless it does already.
func (m *Manager) bind(from, to string) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if mounted, err := mountinfo.Mounted(to); err != nil || mounted {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	return nil
}

func checkDevice(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("look at block volume: %w", err)
	case info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0:
		return fmt.Errorf("%s is not a block device", path)
	}
	return nil
}

// keepsGroup says whether a volume's root shows that it was given to the group
// before, so that the pod's policy leaves what is below alone.
func keepsGroup(dir string, pod *v1.Pod) bool {
	policy := pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy == nil || *policy != v1.FSGroupChangeOnRootMismatch {
		return false
	}
	var stat unix.Stat_t
	const wanted = unix.S_ISGID | 0o070
	return unix.Stat(dir, &stat) == nil && int64(stat.Gid) == *pod.Spec.SecurityContext.FSGroup && stat.Mode&wanted == wanted
}

// Devices are the block volumes of a container, as the runtime mounts them: host
// path and read-only by path in the container.
func (mounted *Mounted) Devices(c *v1.Container) (map[string]Source, error) {
	devices := map[string]Source{}
	for i := range c.VolumeDevices {
		source, ok := mounted.Sources[c.VolumeDevices[i].Name]
		if !ok || source.Device == "" {
			return nil, fmt.Errorf("volume %q of container %q is no block volume", c.VolumeDevices[i].Name, c.Name)
		}
		devices[c.VolumeDevices[i].DevicePath] = source
	}
	return devices, nil
}
