package csi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	attachPoll    = 250 * time.Millisecond
	attachTimeout = 2 * time.Minute
)

// Request is a volume that a pod is to get: a PersistentVolume, or one of the
// pod's own.
type Request struct {
	Pod      *v1.Pod
	Volume   *v1.Volume
	PV       *v1.PersistentVolume // nil: Volume.CSI
	ReadOnly bool
}

// Mounted is a published volume.
type Mounted struct {
	Path   string // of the mount, or of the device
	Block  bool
	Group  bool // the agent has to give it to the pod's fsGroup
	Repeat bool // the driver wants to be asked again now and then
}

// mount is one volume at work.
type mount struct {
	*Manager
	Request
	record
	driver  *driver
	object  *storagev1.CSIDriver // nil: there is none
	dir     string
	fsType  string
	context map[string]string // of the volume
	secrets struct{ stage, publish *v1.SecretReference }
	publish map[string]string // what attaching told
}

// Mount makes the volume appear in the pod's directory. It can be called again
// at any time, and waits for the volume to be attached.
func (m *Manager) Mount(ctx context.Context, request Request) (*Mounted, error) {
	w := &mount{Manager: m, Request: request}
	if err := w.describe(ctx); err != nil {
		return nil, err
	}
	defer m.lock(w.key())()
	// From now on the volume counts as used, whatever happens.
	if err := w.write(w.dir); err != nil {
		return nil, err
	}
	if w.Attached {
		if err := w.waitAttached(ctx); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := w.stage(ctx); err != nil {
		return nil, err
	}
	if err := w.publishVolume(ctx); err != nil {
		return nil, err
	}
	mounted := &Mounted{Path: w.target(w.dir), Block: w.Block, Repeat: w.object != nil && ptr.Deref(w.object.Spec.RequiresRepublish, false)}
	mounted.Group = !w.Block && !w.readOnly() && !w.driver.groups && w.agentSetsGroup()
	return mounted, nil
}

// describe finds driver and volume.
func (w *mount) describe(ctx context.Context) (err error) {
	name := w.Volume.Name
	if w.PV != nil {
		source := w.PV.Spec.CSI
		w.Driver, w.Handle, w.PVName, name = source.Driver, source.VolumeHandle, w.PV.Name, w.PV.Name
		w.Block = ptr.Deref(w.PV.Spec.VolumeMode, v1.PersistentVolumeFilesystem) == v1.PersistentVolumeBlock
		w.fsType, w.context = source.FSType, source.VolumeAttributes
		w.secrets.stage, w.secrets.publish = source.NodeStageSecretRef, source.NodePublishSecretRef
	} else {
		source := w.Volume.CSI
		w.Driver, w.Ephemeral = source.Driver, true
		w.Handle = fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(w.Pod.UID)+name)))
		w.fsType, w.context = ptr.Deref(source.FSType, ""), source.VolumeAttributes
		if ref := source.NodePublishSecretRef; ref != nil {
			w.secrets.publish = &v1.SecretReference{Namespace: w.Pod.Namespace, Name: ref.Name}
		}
	}
	w.dir = filepath.Join(w.Root, "pods", string(w.Pod.UID), Dir, name)
	if w.driver, err = w.Manager.driver(w.Driver); err != nil {
		return err
	}
	w.object, err = w.Client.StorageV1().CSIDrivers().Get(ctx, w.Driver, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		w.object = nil
	case err != nil:
		return fmt.Errorf("read CSIDriver: %w", err)
	}
	if w.Ephemeral {
		switch {
		case w.object == nil:
			return fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object)", storagev1.VolumeLifecycleEphemeral, w.Driver)
		case !slices.Contains(w.object.Spec.VolumeLifecycleModes, storagev1.VolumeLifecycleEphemeral):
			return fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", storagev1.VolumeLifecycleEphemeral, w.Driver, w.object.Spec.VolumeLifecycleModes)
		}
		return nil
	}
	w.Attached = w.object == nil || ptr.Deref(w.object.Spec.AttachRequired, true)
	return nil
}

func (w *mount) readOnly() bool {
	if w.PV == nil {
		return ptr.Deref(w.Volume.CSI.ReadOnly, false)
	}
	return w.ReadOnly || w.PV.Spec.CSI.ReadOnly
}

// AttachmentName is the VolumeAttachment of a volume and a node.
func AttachmentName(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// waitAttached waits until the control plane says that the node has the volume.
func (w *mount) waitAttached(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	name := AttachmentName(w.Handle, w.Driver, w.NodeName)
	for {
		attachment, err := w.Client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil && attachment.DeletionTimestamp != nil:
			err = errors.New("it is being detached")
		case err == nil && attachment.Status.Attached:
			w.publish = attachment.Status.AttachmentMetadata
			return nil
		case err == nil && attachment.Status.AttachError != nil:
			err = errors.New(attachment.Status.AttachError.Message)
		case err == nil:
			err = errors.New("it is not attached yet")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for attachment of volume %s: %w", w.Handle, err)
		case <-time.After(attachPoll):
		}
	}
}

// stage stages the volume for all pods of the node, once.
func (w *mount) stage(ctx context.Context) error {
	if w.Ephemeral || !w.driver.stages {
		return nil
	}
	w.mu.Lock()
	done := w.staged[w.key()]
	w.mu.Unlock()
	if done {
		return nil
	}
	secrets, err := w.readSecrets(ctx, w.secrets.stage)
	if err != nil {
		return err
	}
	path := filepath.Join(w.Root, w.staging())
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("make staging directory: %w", err)
	}
	// The call is idempotent: after a restart it is repeated.
	if _, err := w.driver.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: w.Handle, PublishContext: w.publish, StagingTargetPath: path,
		VolumeCapability: w.capability(), Secrets: secrets, VolumeContext: w.context,
	}); err != nil {
		return fmt.Errorf("MountVolume.MountDevice failed for volume %q : %w", w.PVName, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.staged[w.key()] = true
	return nil
}

func (w *mount) publishVolume(ctx context.Context) error {
	secrets, err := w.readSecrets(ctx, w.secrets.publish)
	if err != nil {
		return err
	}
	volumeContext, err := w.podContext(ctx)
	if err != nil {
		return err
	}
	request := &csi.NodePublishVolumeRequest{
		VolumeId: w.Handle, PublishContext: w.publish, TargetPath: w.target(w.dir),
		VolumeCapability: w.capability(), Readonly: w.readOnly(), Secrets: secrets, VolumeContext: volumeContext,
	}
	if !w.Ephemeral && w.driver.stages {
		request.StagingTargetPath = filepath.Join(w.Root, w.staging())
	}
	if _, err := w.driver.NodePublishVolume(ctx, request); err != nil {
		return fmt.Errorf("rpc NodePublishVolume: %w", err)
	}
	return nil
}

// podContext is the volume's context, with what the driver wants to know of
// the pod.
func (w *mount) podContext(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	maps.Copy(all, w.context)
	if w.object == nil {
		return all, nil
	}
	if ptr.Deref(w.object.Spec.PodInfoOnMount, false) {
		all["csi.storage.k8s.io/pod.name"] = w.Pod.Name
		all["csi.storage.k8s.io/pod.namespace"] = w.Pod.Namespace
		all["csi.storage.k8s.io/pod.uid"] = string(w.Pod.UID)
		all["csi.storage.k8s.io/serviceAccount.name"] = w.Pod.Spec.ServiceAccountName
		all["csi.storage.k8s.io/ephemeral"] = strconv.FormatBool(w.Ephemeral)
	}
	if len(w.object.Spec.TokenRequests) == 0 {
		return all, nil
	}
	type issued struct {
		Token   string      `json:"token"`
		Expires metav1.Time `json:"expirationTimestamp"`
	}
	tokens := map[string]issued{}
	for _, wanted := range w.object.Spec.TokenRequests {
		token, expires, err := w.Token(ctx, w.Pod, wanted.Audience, wanted.ExpirationSeconds)
		if err != nil {
			return nil, fmt.Errorf("make token for driver: %w", err)
		}
		tokens[wanted.Audience] = issued{token, metav1.NewTime(expires)}
	}
	raw, err := json.Marshal(tokens)
	if err != nil {
		return nil, fmt.Errorf("encode tokens: %w", err)
	}
	all["csi.storage.k8s.io/serviceAccount.tokens"] = string(raw)
	return all, nil
}

func (m *Manager) readSecrets(ctx context.Context, ref *v1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := m.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("fetch secret %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	all := make(map[string]string, len(secret.Data))
	for key, value := range secret.Data {
		all[key] = string(value)
	}
	return all, nil
}

// agentSetsGroup says whether the driver leaves the pod's fsGroup to the agent.
func (w *mount) agentSetsGroup() bool {
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if w.object != nil && w.object.Spec.FSGroupPolicy != nil {
		policy = *w.object.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.FileFSGroupPolicy:
		return true
	case storagev1.NoneFSGroupPolicy:
		return false
	}
	return w.fsType != "" && w.PV != nil && (slices.Contains(w.PV.Spec.AccessModes, v1.ReadWriteOnce) || slices.Contains(w.PV.Spec.AccessModes, v1.ReadWriteOncePod))
}

// capability is how the volume is to be used.
func (w *mount) capability() *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: w.accessMode()}}
	if w.Block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		return c
	}
	how := &csi.VolumeCapability_MountVolume{FsType: w.fsType}
	if w.PV != nil {
		how.MountFlags = w.PV.Spec.MountOptions
	}
	if security := w.Pod.Spec.SecurityContext; w.driver.groups && security != nil && security.FSGroup != nil {
		how.VolumeMountGroup = strconv.FormatInt(*security.FSGroup, 10)
	}
	c.AccessType = &csi.VolumeCapability_Mount{Mount: how}
	return c
}

func (w *mount) accessMode() csi.VolumeCapability_AccessMode_Mode {
	once := csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	if w.driver.singleWriter {
		once = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	if w.PV == nil {
		return once
	}
	has := func(mode v1.PersistentVolumeAccessMode) bool { return slices.Contains(w.PV.Spec.AccessModes, mode) }
	switch {
	case has(v1.ReadWriteMany):
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case has(v1.ReadOnlyMany) && !has(v1.ReadWriteOnce):
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case has(v1.ReadWriteOncePod) && w.driver.singleWriter:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	}
	return once
}

// Unmount takes the pod's CSI volumes away, and unstages those that no other pod
// of the host uses.
func (m *Manager) Unmount(ctx context.Context, podDir string) error {
	dirs, err := filepath.Glob(filepath.Join(podDir, Dir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		r, err := readRecord(dir)
		if err == nil && r != nil {
			err = m.unmount(ctx, dir, r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("UnmountVolume.TearDown failed for %s: %w", filepath.Base(dir), err))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) unmount(ctx context.Context, dir string, r *record) error {
	defer m.lock(r.key())()
	d, err := m.driver(r.Driver)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The driver has to hear the path that it was given.
	told := filepath.Join(m.Root, "pods", filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(dir)))), Dir, filepath.Base(dir))
	target := r.target(told)
	if _, err := d.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: r.Handle, TargetPath: target}); err != nil {
		return fmt.Errorf("rpc NodeUnpublishVolume: %w", err)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) { // never what is in it
		return fmt.Errorf("remove mount point: %w", err)
	}
	others := 0
	if err := m.records(func(other string, o *record) {
		if filepath.Clean(other) != filepath.Clean(told) && o.key() == r.key() && !o.Ephemeral {
			others++
		}
	}); err != nil {
		return err
	}
	if !r.Ephemeral && d.stages && others == 0 {
		staging := filepath.Join(m.Root, r.staging())
		if _, err := d.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: r.Handle, StagingTargetPath: staging}); err != nil {
			return fmt.Errorf("rpc NodeUnstageVolume: %w", err)
		}
		m.mu.Lock()
		delete(m.staged, r.key())
		m.mu.Unlock()
		if err := os.Remove(staging); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove staging directory: %w", err)
		}
		_ = os.Remove(filepath.Dir(staging)) // holds nothing else
	}
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of volume: %w", err)
	}
	return nil
}
