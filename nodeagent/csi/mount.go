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

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
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
	Handle string // of the volume
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
	mounted, err := w.mount(ctx)
	if err == nil && w.Attached && m.doesWithout(w.Driver) && m.Report != nil {
		m.Report() // from now on the attachment may go
	}
	return mounted, err
}

func (w *mount) mount(ctx context.Context) (*Mounted, error) {
	defer w.lock(w.key())()
	before, err := readRecord(w.dir)
	if err != nil {
		return nil, err
	}
	w.Pending = before == nil || before.Pending
	wait := w.Attached
	w.Attached = w.Attached || before != nil && before.Attached // it may still be
	if err := w.alone(); err != nil {
		return nil, w.failed(w.step("MountVolume.SetUp", "MapVolume.SetUpDevice"), err)
	}
	if before == nil || before.Pending && before.Attached != w.Attached {
		// From now on the volume counts as used, whatever happens.
		if err := w.write(w.dir); err != nil {
			return nil, err
		}
	}
	if wait {
		if err := w.waitAttached(ctx); err != nil {
			return nil, w.failed("MountVolume.WaitForAttach", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := w.stageVolume(ctx); err != nil {
		return nil, w.failed(w.step("MountVolume.MountDevice", "MapVolume.SetUpDevice"), err)
	}
	if err := w.publishVolume(ctx); err != nil {
		return nil, w.failed(w.step("MountVolume.SetUp", "MapVolume.MapPodDevice"), err)
	}
	mounted := &Mounted{Handle: w.Handle, Path: w.target(w.dir), Block: w.Block, Repeat: w.object != nil && ptr.Deref(w.object.Spec.RequiresRepublish, false)}
	mounted.Group = !w.Block && !w.readOnly() && !w.driver.groups && w.agentSetsGroup()
	return mounted, nil
}

// step names what is done to a file system or to a block volume.
func (w *mount) step(fileSystem, block string) string {
	if w.Block {
		return block
	}
	return fileSystem
}

// Failure is a step of mounting that failed.
type Failure struct {
	Step, Volume string // the PersistentVolume's name, where there is one
	Err          error
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s failed for volume %q : %v", f.Step, f.Volume, f.Err)
}

// Unwrap is the cause.
func (f *Failure) Unwrap() error { return f.Err }

func (w *mount) failed(step string, err error) error {
	return &Failure{Step: step, Volume: filepath.Base(w.dir), Err: err}
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
	return w.ReadOnly
}

// alone fails if another pod of the host has a volume that one may have only.
func (w *mount) alone() error {
	if w.PV == nil || !slices.Contains(w.PV.Spec.AccessModes, v1.ReadWriteOncePod) {
		return nil
	}
	taken := false
	if err := w.records(func(dir string, o *record) {
		taken = taken || o.key() == w.key() && !o.Ephemeral && !o.Pending && filepath.Clean(dir) != filepath.Clean(w.dir)
	}); err != nil {
		return err
	}
	if taken {
		return errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
	}
	return nil
}

// isFinal says whether a call that failed surely does nothing any more; after
// other errors the driver may still be at it.
func isFinal(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}

// stageVolume stages the volume for all pods of the node, once.
func (w *mount) stageVolume(ctx context.Context) error {
	if w.Ephemeral || !w.driver.stages {
		return nil
	}
	w.mu.Lock()
	done := w.staged[w.key()]
	w.mu.Unlock()
	if done {
		return nil
	}
	secrets, err := w.readSecrets(ctx, "NodeStageSecretRef", w.secrets.stage)
	if err != nil {
		return err
	}
	path := filepath.Join(w.Root, w.staging())
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("make staging directory: %w", err)
	}
	if err := w.keepStaged(&w.record); err != nil {
		return err
	}
	// The call is idempotent: after a restart it is repeated.
	if _, err := w.driver.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: w.Handle, PublishContext: w.publish, StagingTargetPath: path,
		VolumeCapability: w.capability(), Secrets: secrets, VolumeContext: w.context,
	}); err != nil {
		if isFinal(err) {
			err = errors.Join(err, w.notStaged())
		}
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.staged[w.key()] = true
	return nil
}

// keepStaged writes down that the volume of a pod is staged, or may be.
func (m *Manager) keepStaged(r *record) error {
	kept := record{Driver: r.Driver, Handle: r.Handle, Attached: r.Attached, PVName: r.PVName}
	return kept.write(filepath.Join(m.Root, r.stage()))
}

// notStaged forgets what keepStaged wrote, unless a pod of the host has the volume
// from an agent before this one.
func (w *mount) notStaged() error {
	published := false
	if err := w.records(func(_ string, o *record) {
		published = published || o.key() == w.key() && !o.Ephemeral && !o.Pending
	}); err != nil || published {
		return err
	}
	_ = os.Remove(filepath.Join(w.Root, w.staging())) // stays while something is in it
	return removeRecord(filepath.Join(w.Root, w.stage()))
}

func (w *mount) publishVolume(ctx context.Context) error {
	secrets, err := w.readSecrets(ctx, "NodePublishSecretRef", w.secrets.publish)
	if err != nil {
		return err
	}
	volumeContext, tokens, err := w.podContext(ctx)
	if err != nil {
		return err
	}
	if w.object != nil && ptr.Deref(w.object.Spec.ServiceAccountTokenInSecrets, false) {
		secrets = merge(secrets, tokens)
	} else {
		volumeContext = merge(volumeContext, tokens)
	}
	request := &csi.NodePublishVolumeRequest{
		VolumeId: w.Handle, PublishContext: w.publish, TargetPath: w.target(w.dir),
		VolumeCapability: w.capability(), Readonly: w.readOnly(), Secrets: secrets, VolumeContext: volumeContext,
	}
	if !w.Ephemeral && w.driver.stages {
		request.StagingTargetPath = filepath.Join(w.Root, w.staging())
	}
	fresh := w.Pending
	if fresh {
		w.Pending = false
		if err := w.write(w.dir); err != nil {
			return err
		}
	}
	if _, err := w.driver.NodePublishVolume(ctx, request); err != nil {
		if fresh && isFinal(err) {
			w.Pending = true
			err = errors.Join(err, w.write(w.dir))
		}
		return err
	}
	return nil
}

// merge returns what is in both, b's where they differ.
func merge(a, b map[string]string) map[string]string {
	if len(b) == 0 {
		return a
	}
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return all
}

// podContext is the volume's context, with what the driver wants to know of
// the pod, and tokens of the pod's account where the driver wants some.
func (w *mount) podContext(ctx context.Context) (all, tokens map[string]string, err error) {
	all = w.context
	if w.object == nil {
		return all, nil, nil
	}
	if ptr.Deref(w.object.Spec.PodInfoOnMount, false) {
		all = merge(all, map[string]string{
			"csi.storage.k8s.io/pod.name":            w.Pod.Name,
			"csi.storage.k8s.io/pod.namespace":       w.Pod.Namespace,
			"csi.storage.k8s.io/pod.uid":             string(w.Pod.UID),
			"csi.storage.k8s.io/serviceAccount.name": w.Pod.Spec.ServiceAccountName,
			"csi.storage.k8s.io/ephemeral":           strconv.FormatBool(w.Ephemeral),
		})
	}
	if len(w.object.Spec.TokenRequests) == 0 {
		return all, nil, nil
	}
	type issued struct {
		Token   string      `json:"token"`
		Expires metav1.Time `json:"expirationTimestamp"`
	}
	byAudience := map[string]issued{}
	for _, wanted := range w.object.Spec.TokenRequests {
		token, expires, err := w.Token(ctx, w.Pod, wanted.Audience, wanted.ExpirationSeconds)
		if err != nil {
			return nil, nil, fmt.Errorf("make token for driver: %w", err)
		}
		byAudience[wanted.Audience] = issued{token, metav1.NewTime(expires)}
	}
	raw, err := json.Marshal(byAudience)
	if err != nil {
		return nil, nil, fmt.Errorf("encode tokens: %w", err)
	}
	return all, map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": string(raw)}, nil
}

// readSecrets reads what field, a reference to a secret, refers to.
func (m *Manager) readSecrets(ctx context.Context, field string, ref *v1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := m.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("fetching %s %s/%s failed: %w", field, ref.Namespace, ref.Name, err)
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

// accessMode is the first of the volume's.
func (w *mount) accessMode() csi.VolumeCapability_AccessMode_Mode {
	mode := v1.ReadWriteOnce
	if w.PV != nil && len(w.PV.Spec.AccessModes) > 0 {
		mode = w.PV.Spec.AccessModes[0]
	}
	switch {
	case mode == v1.ReadWriteMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case mode == v1.ReadOnlyMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case !w.driver.singleWriter:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	case mode == v1.ReadWriteOncePod:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	}
	return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
}
