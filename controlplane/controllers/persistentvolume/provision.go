package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/reference"
	"k8s.io/component-helpers/storage/volume"

	"clusterctl/controlplane/controllers/localpath"
)

// Reasons of events about provisioning.
const (
	provisioningFailed    = "ProvisioningFailed"
	provisioningSucceeded = "ProvisioningSucceeded"
	externalProvisioning  = "ExternalProvisioning"
)

// provision has a volume made for a claim whose class says how.
func (c *controller) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	class, err := c.classLister.Get(volume.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		c.recorder.Event(claim, corev1.EventTypeWarning, provisioningFailed, err.Error())
		return nil // a class that comes wakes the claim
	}
	if strings.HasPrefix(class.Provisioner, "kubernetes.io/") {
		c.recorder.Eventf(claim, corev1.EventTypeWarning, provisioningFailed, "no volume plugin matched name: %s", class.Provisioner)
		return nil
	}
	claim, err = c.nameProvisioner(ctx, claim, class.Provisioner)
	if err != nil {
		c.recorder.Eventf(claim, corev1.EventTypeWarning, provisioningFailed, "Error saving claim: %v", err)
		return err
	}
	if class.Provisioner == localpath.Name {
		return c.provisionLocal(ctx, claim, class)
	}
	c.recorder.Eventf(claim, corev1.EventTypeNormal, externalProvisioning,
		"Waiting for a volume to be created either by the external provisioner '%s' "+
			"or manually by the system administrator. If volume creation is delayed, please verify that "+
			"the provisioner is running and correctly registered.", class.Provisioner)
	return nil
}

// nameProvisioner writes on the claim who is to make its volume. Where that
// fails it returns the claim as it was.
func (c *controller) nameProvisioner(ctx context.Context, claim *corev1.PersistentVolumeClaim, provisioner string) (*corev1.PersistentVolumeClaim, error) {
	if claim.Annotations[volume.AnnStorageProvisioner] == provisioner {
		return claim, nil
	}
	named := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&named.ObjectMeta, volume.AnnBetaStorageProvisioner, provisioner)
	metav1.SetMetaDataAnnotation(&named.ObjectMeta, volume.AnnStorageProvisioner, provisioner)
	named, err := c.env.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, named, metav1.UpdateOptions{})
	if err != nil {
		return claim, err
	}
	return named, nil
}

// provisionLocal makes a volume on the node that the scheduler chose.
func (c *controller) provisionLocal(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	name := "pvc-" + string(claim.UID)
	if _, err := c.env.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err // made before; its event completes the binding
	}
	node, err := c.chosenNode(ctx, claim)
	if err == nil {
		err = localpath.Refuses(claim, class)
	}
	if err != nil {
		c.recorder.Eventf(claim, corev1.EventTypeWarning, provisioningFailed, "Failed to provision volume with StorageClass %q: %v", class.Name, err)
		// Another node may do, if it was chosen by the scheduler at all.
		return errors.Join(err, c.reschedule(ctx, claim))
	}
	ref, err := reference.GetReference(scheme.Scheme, claim)
	if err != nil {
		return fmt.Errorf("refer to claim: %w", err)
	}
	made := localpath.Volume(name, claim, class, node)
	made.Spec.ClaimRef = ref
	metav1.SetMetaDataAnnotation(&made.ObjectMeta, volume.AnnBoundByController, "yes")
	metav1.SetMetaDataAnnotation(&made.ObjectMeta, volume.AnnDynamicallyProvisioned, localpath.Name)
	if made.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		made.Finalizers = []string{volume.PVDeletionInTreeProtectionFinalizer}
	}
	if _, err := c.env.Client.CoreV1().PersistentVolumes().Create(ctx, made, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		c.recorder.Eventf(claim, corev1.EventTypeWarning, provisioningFailed, "Failed to provision volume with StorageClass %q: %v", class.Name, err)
		return fmt.Errorf("create provisioned volume: %w", err)
	}
	c.recorder.Eventf(claim, corev1.EventTypeNormal, provisioningSucceeded, "Successfully provisioned volume %s using %s", name, localpath.Name)
	return nil
}

func (c *controller) chosenNode(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.Node, error) {
	name := claim.Annotations[volume.AnnSelectedNode]
	if name == "" {
		return nil, errors.New("a volume on a node's own disk needs a node: use volumeBindingMode WaitForFirstConsumer")
	}
	node, err := c.nodeLister.Get(name)
	if apierrors.IsNotFound(err) {
		node, err = c.env.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("failed to get target node: %w", err)
	}
	return node, nil
}

// reschedule makes the scheduler choose again.
func (c *controller) reschedule(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if !volume.IsDelayBindingProvisioning(claim) {
		return nil
	}
	changed := claim.DeepCopy()
	delete(changed.Annotations, volume.AnnSelectedNode)
	if _, err := c.env.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, changed, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("ask for another node: %w", err)
	}
	return nil
}
