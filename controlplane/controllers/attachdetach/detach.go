package attachdetach

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

// patience is how long the agent of a node that is not ready gets to say that it
// no longer uses a volume which nobody wants there.
const patience = 6 * time.Minute

// detach gives an attachment up, unless the node's agent still uses the volume:
// a volume must not be pulled from under a file system. waits says that it does.
func (c *controller) detach(ctx context.Context, a *storagev1.VolumeAttachment, node *corev1.Node) (waits bool, err error) {
	v, err := c.volumes.Get(*a.Spec.Source.PersistentVolumeName)
	if err != nil && !apierrors.IsNotFound(err) {
		return false, err
	}
	if err == nil && v.Spec.CSI != nil && c.inUse(a.Name, uniqueName(v.Spec.CSI), node) {
		return true, nil
	}
	err = c.env.Client.StorageV1().VolumeAttachments().Delete(ctx, a.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(a.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("detach volume: %w", err)
	}
	c.asked(a.Name)
	return false, nil
}

// inUse reports whether the agent of node uses a volume, as far as it can be
// believed: not where an operator says that the node is down, and not for ever
// where it is not ready.
func (c *controller) inUse(attachment string, volume corev1.UniqueVolumeName, node *corev1.Node) bool {
	if node == nil || outOfService(node) || !slices.Contains(node.Status.VolumesInUse, volume) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.unasked[attachment]
	if !ok {
		since = c.now()
		c.unasked[attachment] = since
	}
	if reconcile.NodeReady(node) || c.now().Sub(since) <= patience {
		return true
	}
	c.loop.Logger().Warn("detach a volume that a node still uses: the node is not ready", "node", node.Name, "volume", volume, "after", patience)
	return false
}

// asked forgets since when nobody has wanted an attachment.
func (c *controller) asked(attachment string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unasked, attachment)
}

// outOfService says that an operator has seen that the node is down.
func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}
