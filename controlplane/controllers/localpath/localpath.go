package localpath

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/hostconfig"
)

// Name is the provisioner in storage classes, and on what it made.
const Name = hostconfig.LocalPathProvisioner

// ErrInUse says that a pod of the node still has the directory mounted.
var ErrInUse = errors.New("the volume is still in use on its node")

// removeTimeout bounds one removal: it only has to be begun on the node.
const removeTimeout = 30 * time.Second

// Refuses says why the class cannot serve the claim; nil: it can.
func Refuses(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Errorf("access mode %s is not possible on a node's own disk", mode)
		}
	}
	switch {
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return errors.New("only volumeMode Filesystem is possible")
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return errors.New("a claim with a data source needs a CSI driver")
	case claim.Spec.Selector != nil:
		return errors.New("claim.Spec.Selector is not supported")
	case len(class.MountOptions) > 0:
		return fmt.Errorf("mount options are not supported by the provisioner but StorageClass %q has mount options %v", class.Name, class.MountOptions)
	}
	return nil
}

// Volume is the volume of a claim on a node. Binding it is the caller's.
func Volume(name string, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) *corev1.PersistentVolume {
	host := node.Labels[corev1.LabelHostname]
	if host == "" {
		host = node.Name
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{hostconfig.LocalPathNode: node.Name}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              volume.GetPersistentVolumeClaimClass(claim),
			VolumeAttributesClassName:     claim.Spec.VolumeAttributesClassName,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: path.Join(hostconfig.LocalPathDir, name)},
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}
}

// Provisioner has directories removed. Safe for concurrent use.
type Provisioner struct {
	client kubernetes.Interface
	// ask has the node agent remove the directory of a volume.
	ask func(ctx context.Context, node, volume string) error
}

// New makes a provisioner that reaches nodes through client.
func New(client kubernetes.Interface) *Provisioner {
	return NewWith(client, func(ctx context.Context, node, volume string) error {
		return client.CoreV1().RESTClient().Delete().Resource("nodes").Name(node).SubResource("proxy").
			Suffix("localvolumes", volume).Do(ctx).Error()
	})
}

// NewWith makes a provisioner that reaches nodes through ask.
func NewWith(client kubernetes.Interface, ask func(ctx context.Context, node, volume string) error) *Provisioner {
	return &Provisioner{client: client, ask: ask}
}

// Remove removes the directory of a volume that Volume made. It succeeds too
// where the node is gone from the cluster, and the disk with it.
func (p *Provisioner) Remove(ctx context.Context, v *corev1.PersistentVolume) error {
	node := v.Annotations[hostconfig.LocalPathNode]
	if node == "" || v.Spec.Local == nil || v.Spec.Local.Path != path.Join(hostconfig.LocalPathDir, v.Name) {
		return fmt.Errorf("volume %s is not one that %s made", v.Name, Name)
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	err := p.ask(ctx, node, v.Name)
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err):
		return fmt.Errorf("remove directory on node %s: %w", node, ErrInUse)
	}
	if _, gone := p.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); apierrors.IsNotFound(gone) {
		return nil
	}
	return fmt.Errorf("remove directory on node %s: %w", node, err)
}
