package plugins

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// VolumeBinding keeps pods on nodes that reach their volumes. For claims that
// wait for their first consumer it finds volumes that the node reaches, or sees
// that one can be made there; it takes them when the node is chosen and has them
// bound before the pod is (volumebinding_bind.go).
type VolumeBinding struct {
	client kubernetes.Interface

	mu       sync.Mutex
	reserved map[types.UID]*volumeChoice // by pod
}

// NewVolumeBinding makes the plugin; the client is only used to bind.
func NewVolumeBinding(client kubernetes.Interface) *VolumeBinding {
	return &VolumeBinding{client: client, reserved: map[types.UID]*volumeChoice{}}
}

func (*VolumeBinding) Name() string { return "VolumeBinding" }
func (*VolumeBinding) Local() bool  { return false }

func (*VolumeBinding) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged | framework.ClaimChanged | framework.VolumeChanged |
		framework.ClassChanged | framework.CapacityChanged
}

// Helps: another's claim does not.
func (*VolumeBinding) Helps(event framework.Event, pod *v1.Pod) bool {
	return event.Claim == nil || needsClaim(pod, event.Claim)
}

func needsClaim(pod *v1.Pod, claim *v1.PersistentVolumeClaim) bool {
	return pod.Namespace == claim.Namespace &&
		slices.ContainsFunc(picture.ClaimsOf(pod), func(r picture.ClaimRef) bool { return r.Name == claim.Name })
}

var (
	volumeElsewhere = framework.RefuseFinally("node(s) didn't match PersistentVolume's node affinity")
	noVolume        = framework.RefuseFinally("node(s) didn't find available persistent volumes to bind")
	noStorage       = framework.RefuseFinally("node(s) did not have enough free storage")
	volumeGone      = framework.RefuseFinally("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
)

// podClaims is a pod's claims, sorted by what has to be done for them.
type podClaims struct {
	bound   []*v1.PersistentVolumeClaim
	waiting []*v1.PersistentVolumeClaim // for a first consumer; the smallest first
}

// volumeChoice is what a pod takes on a node.
type volumeChoice struct {
	node      string
	bind      []*v1.PersistentVolume      // as they are to be: with their claims
	claims    []*v1.PersistentVolumeClaim // of those, in the same order
	provision []*v1.PersistentVolumeClaim // as they are to be: with the node
}

func (p *VolumeBinding) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	if len(pod.Claims) == 0 {
		return nil
	}
	storage := cluster.Storage()
	claims, refusal := claimsOf(pod, storage)
	if refusal != nil {
		return func(*picture.Node) *framework.Refusal { return refusal }
	}
	return func(n *picture.Node) *framework.Refusal {
		_, refusal := choose(claims, storage, n)
		return refusal
	}
}

// claimsOf sorts a pod's claims; or says why the pod can go nowhere.
func claimsOf(pod *picture.Pod, storage *picture.Storage) (*podClaims, *framework.Refusal) {
	claims := &podClaims{}
	immediate := false
	for i := range pod.Claims {
		ref := &pod.Claims[i]
		claim := storage.Claim(ref.Key)
		switch {
		case claim == nil && ref.Ephemeral:
			return nil, framework.RefuseWhole(fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", ref.Name))
		case claim == nil:
			return nil, framework.RefuseWhole(fmt.Sprintf("persistentvolumeclaim %q not found", ref.Name))
		case claim.Status.Phase == v1.ClaimLost:
			return nil, framework.RefuseWhole(fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName))
		case claim.DeletionTimestamp != nil:
			return nil, framework.RefuseWhole(fmt.Sprintf("persistentvolumeclaim %q is being deleted", claim.Name))
		}
		if ref.Ephemeral {
			if err := ephemeral.VolumeIsForPod(pod.Object, claim); err != nil {
				return nil, framework.RefuseWhole(err.Error())
			}
		}
		switch {
		case fullyBound(claim):
			claims.bound = append(claims.bound, claim)
		case waits(claim, storage) && claim.Spec.VolumeName == "":
			claims.waiting = append(claims.waiting, claim)
		default:
			immediate = true
		}
	}
	if immediate {
		return nil, unboundImmediate
	}
	slices.SortStableFunc(claims.waiting, func(a, b *v1.PersistentVolumeClaim) int {
		x, y := a.Spec.Resources.Requests[v1.ResourceStorage], b.Spec.Resources.Requests[v1.ResourceStorage]
		return x.Cmp(y)
	})
	return claims, nil
}

var unboundImmediate = framework.RefuseWhole("pod has unbound immediate PersistentVolumeClaims")

func fullyBound(claim *v1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// waits says whether a claim's class binds with the first consumer.
func waits(claim *v1.PersistentVolumeClaim, storage *picture.Storage) bool {
	class := storage.Class(volume.GetPersistentVolumeClaimClass(claim))
	return class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
}

// choose finds what the claims would get on a node; or says why they cannot.
func choose(claims *podClaims, storage *picture.Storage, n *picture.Node) (*volumeChoice, *framework.Refusal) {
	for _, claim := range claims.bound {
		v := storage.Volume(claim.Spec.VolumeName)
		if v == nil {
			return nil, volumeGone
		}
		if volume.CheckNodeAffinity(v, n.Object.Labels) != nil {
			return nil, volumeElsewhere
		}
	}
	choice := &volumeChoice{node: n.Name()}
	taken := map[string]*v1.PersistentVolume{}
	for _, claim := range claims.waiting {
		if selected, ok := claim.Annotations[volume.AnnSelectedNode]; ok {
			if selected != n.Name() {
				return nil, noVolume // being made for another node
			}
		} else {
			candidates := storage.VolumesOf(volume.GetPersistentVolumeClaimClass(claim))
			slices.SortFunc(candidates, func(a, b *v1.PersistentVolume) int { return cmp.Compare(a.Name, b.Name) })
			v, err := volume.FindMatchingVolume(claim, candidates, n.Object, taken, true, true)
			if err != nil {
				return nil, framework.RefuseWhole(err.Error()) // its selector cannot be read
			}
			if v != nil {
				taken[v.Name] = v
				choice.bind, choice.claims = append(choice.bind, v), append(choice.claims, claim)
				continue
			}
		}
		if refusal := provisionable(claim, storage, n.Object); refusal != nil {
			return nil, refusal
		}
		choice.provision = append(choice.provision, claim)
	}
	return choice, nil
}

// provisionable says why no volume can be made for a claim on a node; nil: one
// can.
func provisionable(claim *v1.PersistentVolumeClaim, storage *picture.Storage, node *v1.Node) *framework.Refusal {
	class := storage.Class(volume.GetPersistentVolumeClaimClass(claim))
	if class == nil || class.Provisioner == "" || class.Provisioner == volume.NotSupportedProvisioner || !allowed(class.AllowedTopologies, node.Labels) {
		return noVolume
	}
	driver := storage.Driver(class.Provisioner)
	size, ok := claim.Spec.Resources.Requests[v1.ResourceStorage]
	if !ok || driver == nil || !ptr.Deref(driver.Spec.StorageCapacity, false) {
		return nil
	}
	for capacity := range storage.Capacities {
		if limit := VolumeLimit(capacity); capacity.StorageClassName != class.Name || limit == nil || limit.Cmp(size) < 0 || capacity.NodeTopology == nil {
			continue
		}
		// A selector that cannot be read reaches no node.
		if selector, err := metav1.LabelSelectorAsSelector(capacity.NodeTopology); err == nil && selector.Matches(labels.Set(node.Labels)) {
			return nil
		}
	}
	return noStorage
}

// VolumeLimit is the size of the largest volume that a capacity has room for;
// nil: it does not say.
func VolumeLimit(capacity *storagev1.CSIStorageCapacity) *resource.Quantity {
	if capacity.MaximumVolumeSize != nil {
		return capacity.MaximumVolumeSize
	}
	return capacity.Capacity
}

// allowed says whether a node is in one of the topologies; none allow all.
func allowed(terms []v1.TopologySelectorTerm, set map[string]string) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(term v1.TopologySelectorTerm) bool {
		return len(term.MatchLabelExpressions) > 0 && !slices.ContainsFunc(term.MatchLabelExpressions, func(e v1.TopologySelectorLabelRequirement) bool {
			value, ok := set[e.Key]
			return !ok || !slices.Contains(e.Values, value)
		})
	})
}

// Reserve implements framework.ReservePlugin: what the pod gets on the node is
// taken from the picture.
func (p *VolumeBinding) Reserve(pod *picture.Pod, cluster *picture.Picture, node *picture.Node) error {
	if len(pod.Claims) == 0 {
		return nil
	}
	storage := cluster.Storage()
	claims, refusal := claimsOf(pod, storage)
	if refusal != nil {
		return errors.New(refusal.Reasons[0])
	}
	choice, refusal := choose(claims, storage, node)
	if refusal != nil {
		return errors.New(refusal.Reasons[0])
	}
	if len(choice.bind)+len(choice.provision) == 0 {
		return nil
	}
	for i, v := range choice.bind {
		bound, _, err := volume.GetBindVolumeToClaim(v, choice.claims[i])
		if err != nil {
			return err
		}
		storage.AssumeVolume(bound)
		choice.bind[i] = bound
	}
	for i, claim := range choice.provision {
		selected := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&selected.ObjectMeta, volume.AnnSelectedNode, node.Name())
		storage.AssumeClaim(selected)
		choice.provision[i] = selected
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved[pod.Object.UID] = choice
	return nil
}

// Unreserve implements framework.ReservePlugin. What was written to the API
// already is shown by the API.
func (p *VolumeBinding) Unreserve(pod *v1.Pod, cluster *picture.Picture, _ string) {
	choice := p.take(pod)
	if choice == nil {
		return
	}
	for _, v := range choice.bind {
		cluster.Storage().RestoreVolume(v.Name)
	}
	for _, claim := range choice.provision {
		cluster.Storage().RestoreClaim(claim.Namespace + "/" + claim.Name)
	}
}

func (p *VolumeBinding) take(pod *v1.Pod) *volumeChoice {
	p.mu.Lock()
	defer p.mu.Unlock()
	choice := p.reserved[pod.UID]
	delete(p.reserved, pod.UID)
	return choice
}

// Needed implements framework.PreBindPlugin.
func (p *VolumeBinding) Needed(pod *v1.Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reserved[pod.UID] != nil
}
