package attachdetach

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 4
	// recheck is how often a node is looked at while something is in the way: a
	// node agent that still uses a volume, or another node that has it.
	recheck = 5 * time.Second
	// Indexes of volume attachments.
	byNode   = "attachdetach/node"
	byVolume = "attachdetach/volume"
)

type controller struct {
	env         *reconcile.Environment
	recorder    record.EventRecorder
	loop        *reconcile.Loop
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	nodes       corelisters.NodeLister
	pods        corelisters.PodLister
	drivers     storagelisters.CSIDriverLister
	attachments cache.Indexer
	now         func() time.Time

	mu      sync.Mutex
	unasked map[string]time.Time // attachments that nobody wants, by name: since when
}

// New makes the controller. Its loop's keys are names of nodes.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	core, storage := env.Informers.Core().V1(), env.Informers.Storage().V1()
	informer := storage.VolumeAttachments().Informer()
	c := &controller{
		env: env, recorder: env.Recorder("attachdetach-controller"),
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
		nodes: core.Nodes().Lister(), pods: core.Pods().Lister(), drivers: storage.CSIDrivers().Lister(), attachments: informer.GetIndexer(),
		now: time.Now, unasked: map[string]time.Time{},
	}
	c.loop = reconcile.NewLoop(env, "attachdetach", workers, c.reconcile)
	err := informer.AddIndexers(cache.Indexers{
		byNode: func(obj any) ([]string, error) {
			a, ok := obj.(*storagev1.VolumeAttachment)
			if !ok {
				return nil, fmt.Errorf("index node of %T", obj)
			}
			return []string{a.Spec.NodeName}, nil
		},
		byVolume: func(obj any) ([]string, error) {
			a, ok := obj.(*storagev1.VolumeAttachment)
			if !ok {
				return nil, fmt.Errorf("index volume of %T", obj)
			}
			return []string{ptr.Deref(a.Spec.Source.PersistentVolumeName, "")}, nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("index attachments: %w", err)
	}
	return c.loop, c.watch(informer)
}

func (c *controller) watch(attachments cache.SharedIndexInformer) error {
	core := c.env.Informers.Core().V1()
	pod := func(pod *corev1.Pod) {
		if pod.Spec.NodeName != "" && len(claimsOf(pod)) > 0 {
			c.loop.Add(pod.Spec.NodeName)
		}
	}
	if err := reconcile.Each(c.env, core.Pods().Informer(), pod); err != nil {
		return err
	}
	err := reconcile.Watch(c.env, core.PersistentVolumeClaims().Informer(), reconcile.Handlers[*corev1.PersistentVolumeClaim]{
		Update: func(old, claim *corev1.PersistentVolumeClaim) {
			if old.Spec.VolumeName == claim.Spec.VolumeName && old.Status.Phase == claim.Status.Phase {
				return
			}
			pods, err := c.pods.Pods(claim.Namespace).List(labels.Everything())
			if err != nil {
				c.loop.Logger().Warn("list pods", "error", err) // of a cache: cannot be
				return
			}
			for _, p := range pods {
				if p.Spec.NodeName != "" && slices.Contains(claimsOf(p), claim.Name) {
					c.loop.Add(p.Spec.NodeName)
				}
			}
		}})
	if err != nil {
		return err
	}
	err = reconcile.Watch(c.env, core.Nodes().Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(n *corev1.Node) { c.loop.AddObject(n) },
		Update: func(old, n *corev1.Node) {
			if !slices.Equal(old.Status.VolumesInUse, n.Status.VolumesInUse) || len(old.Spec.Taints) != len(n.Spec.Taints) {
				c.loop.AddObject(n)
			}
		},
		Delete: func(n *corev1.Node) { c.loop.AddObject(n) },
	})
	if err != nil {
		return err
	}
	// One that comes may end the need to attach. One that goes comes back as a rule,
	// changed: to attach what its pods have by then would be in vain.
	err = reconcile.Watch(c.env, c.env.Informers.Storage().V1().CSIDrivers().Informer(), reconcile.Handlers[*storagev1.CSIDriver]{
		Add: func(*storagev1.CSIDriver) {
			nodes, err := c.nodes.List(labels.Everything())
			if err != nil {
				c.loop.Logger().Warn("list nodes", "error", err) // of a cache: cannot be
				return
			}
			for _, n := range nodes {
				c.loop.AddObject(n)
			}
		}})
	if err != nil {
		return err
	}
	return reconcile.Each(c.env, attachments, func(a *storagev1.VolumeAttachment) { c.loop.Add(a.Spec.NodeName) })
}

func claimsOf(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, v))
		}
	}
	return names
}

// attachmentName is known to drivers and to node agents.
func attachmentName(source *corev1.CSIPersistentVolumeSource, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(source.VolumeHandle+source.Driver+node)))
}

func uniqueName(source *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + source.Driver + "^" + source.VolumeHandle)
}

// use is a volume that pods of a node use.
type use struct {
	volume *corev1.PersistentVolume
	pods   []*corev1.Pod
}

func (c *controller) reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if apierrors.IsNotFound(err) {
		node = nil
	}
	wanted, err := c.wanted(name)
	if err != nil {
		return err
	}
	have, err := c.attachedTo(name)
	if err != nil {
		return err
	}
	again := false
	if node != nil {
		for attachment, u := range wanted {
			if have[attachment] != nil {
				continue
			}
			waits, err := c.attach(ctx, attachment, u, name)
			if err != nil {
				return err
			}
			again = again || waits
		}
	}
	for attachment, a := range have {
		if wanted[attachment] != nil && node != nil || a.DeletionTimestamp != nil {
			c.asked(attachment)
			continue
		}
		waits, err := c.detach(ctx, a, node)
		if err != nil {
			return err
		}
		again = again || waits
	}
	if again {
		c.loop.AddAfter(name, recheck)
	}
	if node == nil {
		return nil
	}
	return c.tell(ctx, node, wanted, have)
}

// wanted is what the node's pods use that has to be attached, by name of the
// attachment.
func (c *controller) wanted(node string) (map[string]*use, error) {
	pods, err := c.env.PodsOn(node)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(reconcile.Key(a), reconcile.Key(b)) })
	wanted := map[string]*use{}
	for _, pod := range pods {
		if ended(pod) {
			continue
		}
		for _, name := range claimsOf(pod) {
			claim, err := c.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
			if err != nil || claim.Status.Phase != corev1.ClaimBound {
				continue // its event brings us back
			}
			v, err := c.volumes.Get(claim.Spec.VolumeName)
			if err != nil || v.Spec.CSI == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID || !c.attachable(v.Spec.CSI.Driver) {
				continue
			}
			key := attachmentName(v.Spec.CSI, node)
			if wanted[key] == nil {
				wanted[key] = &use{volume: v}
			}
			wanted[key].pods = append(wanted[key].pods, pod)
		}
	}
	return wanted, nil
}

// ended reports whether nothing of pod runs any more.
func ended(pod *corev1.Pod) bool {
	return reconcile.PodTerminal(pod) || pod.DeletionTimestamp != nil &&
		!slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
			return s.State.Terminated == nil && s.State.Waiting == nil
		})
}

func (c *controller) attachable(driver string) bool {
	d, err := c.drivers.Get(driver)
	return err != nil || ptr.Deref(d.Spec.AttachRequired, true)
}

// attachedTo is a node's attachments of persistent volumes that have the name
// this controller gives them, by name: others may make their own.
func (c *controller) attachedTo(node string) (map[string]*storagev1.VolumeAttachment, error) {
	objects, err := c.attachments.ByIndex(byNode, node)
	if err != nil {
		return nil, err
	}
	have := map[string]*storagev1.VolumeAttachment{}
	for _, obj := range objects {
		a := obj.(*storagev1.VolumeAttachment)
		if name := a.Spec.Source.PersistentVolumeName; name != nil && strings.HasPrefix(a.Name, "csi-") {
			if v, err := c.volumes.Get(*name); err == nil && (v.Spec.CSI == nil || attachmentName(v.Spec.CSI, node) != a.Name) {
				continue
			}
			have[a.Name] = a
		}
	}
	return have, nil
}

// attach asks for an attachment. waits says that another node has a volume that
// may be on one only.
func (c *controller) attach(ctx context.Context, name string, u *use, node string) (waits bool, err error) {
	if other := c.elsewhere(u.volume, node); other != "" {
		why := "exclusively attached to one node and can't be attached to another"
		if users := c.users(u.volume, other); len(users) > 0 {
			why = "used by pod(s) " + strings.Join(users, ", ")
		}
		for _, pod := range u.pods {
			c.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedAttachVolume", "Multi-Attach error for volume %q Volume is already %s", u.volume.Name, why)
		}
		return true, nil
	}
	_, err = c.env.Client.StorageV1().VolumeAttachments().Create(ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{
			NodeName: node, Attacher: u.volume.Spec.CSI.Driver,
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &u.volume.Name},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		for _, pod := range u.pods {
			c.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedAttachVolume", "AttachVolume.Attach failed for volume %q : %v", u.volume.Name, err)
		}
		return false, fmt.Errorf("attach volume %s: %w", u.volume.Name, err)
	}
	return false, nil
}

// elsewhere is another node that has a volume which may be on one only.
func (c *controller) elsewhere(v *corev1.PersistentVolume, node string) string {
	for _, mode := range v.Spec.AccessModes {
		if mode == corev1.ReadWriteMany || mode == corev1.ReadOnlyMany {
			return ""
		}
	}
	objects, err := c.attachments.ByIndex(byVolume, v.Name)
	if err != nil {
		return ""
	}
	for _, obj := range objects {
		if a := obj.(*storagev1.VolumeAttachment); a.Spec.NodeName != node {
			return a.Spec.NodeName
		}
	}
	return ""
}

// users are the pods of node that use a volume, all of its claim's namespace.
func (c *controller) users(v *corev1.PersistentVolume, node string) (names []string) {
	pods, err := c.env.PodsOn(node)
	if err != nil {
		return nil
	}
	for _, pod := range pods {
		if pod.Namespace == v.Spec.ClaimRef.Namespace && !ended(pod) && slices.Contains(claimsOf(pod), v.Spec.ClaimRef.Name) {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	return names
}

// tell writes on the node what is attached to it, and tells the pods that wait.
func (c *controller) tell(ctx context.Context, node *corev1.Node, wanted map[string]*use, have map[string]*storagev1.VolumeAttachment) error {
	attached := []corev1.AttachedVolume{}
	var news []*use
	for name, a := range have {
		if !a.Status.Attached {
			continue
		}
		v, err := c.volumes.Get(*a.Spec.Source.PersistentVolumeName)
		if err != nil || v.Spec.CSI == nil {
			continue
		}
		entry := corev1.AttachedVolume{Name: uniqueName(v.Spec.CSI)}
		attached = append(attached, entry)
		if wanted[name] != nil && !slices.Contains(node.Status.VolumesAttached, entry) {
			news = append(news, wanted[name])
		}
	}
	slices.SortFunc(attached, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	if slices.Equal(attached, node.Status.VolumesAttached) {
		return nil
	}
	// Merged, not strategic: the list is replaced as a whole.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID}, "status": map[string]any{"volumesAttached": attached}})
	if err != nil {
		return fmt.Errorf("encode attached volumes: %w", err)
	}
	if _, err := c.env.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write attached volumes: %w", err)
	}
	for _, u := range news {
		for _, pod := range u.pods {
			c.recorder.Eventf(pod, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ", u.volume.Name)
		}
	}
	return nil
}
