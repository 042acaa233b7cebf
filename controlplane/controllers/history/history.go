package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	// hashLabel is on every revision and, as controller-revision-hash, with
	// what the controller puts there, on every pod.
	hashLabel = "controller.kubernetes.io/hash"
	// prefixLimit leaves room for the hash in a name.
	prefixLimit = 223
	// collisionTries bounds how many taken names are tried in a row.
	collisionTries = 10
)

// Keeper reads and writes revisions.
type Keeper struct {
	Client kubernetes.Interface
	Lister appslisters.ControllerRevisionLister
}

// Owner is the object whose templates are kept.
type Owner struct {
	Object     metav1.Object
	Kind       schema.GroupVersionKind
	Selector   labels.Selector
	Template   *corev1.PodTemplateSpec
	Collisions *int32 // as its status has it
	Limit      *int32 // of revisions that nothing uses; nil for all
	// Fresh reads the object from the API server (see reconcile.Claim).
	Fresh func(ctx context.Context) (metav1.Object, error)
}

// History is every revision of one owner.
type History struct {
	Update     *appsv1.ControllerRevision   // of the present template
	Revisions  []*appsv1.ControllerRevision // all, Update too, oldest first
	Collisions *int32                       // for the owner's status
}

// Named returns the revision of a name, or nil.
func (h History) Named(name string) *appsv1.ControllerRevision {
	for _, r := range h.Revisions {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Resolve finds the revisions of owner, adopts orphans among them, and makes
// sure that the newest is that of the present template.
func (k Keeper) Resolve(ctx context.Context, owner Owner) (History, error) {
	h := History{Collisions: owner.Collisions}
	all, err := k.Lister.ControllerRevisions(owner.Object.GetNamespace()).List(owner.Selector)
	if err != nil {
		return h, fmt.Errorf("list revisions: %w", err)
	}
	h.Revisions, err = k.claim(owner).Resolve(ctx, all)
	if err != nil {
		return h, err
	}
	slices.SortFunc(h.Revisions, older)
	data, err := encode(owner.Template)
	if err != nil {
		return h, err
	}
	var same *appsv1.ControllerRevision
	highest := int64(0)
	for _, r := range h.Revisions {
		highest = r.Revision
		if equal(r, data, owner.Template) {
			same = r
		}
	}
	switch {
	case same == nil:
		h.Update, err = k.create(ctx, owner, data, highest+1, &h.Collisions)
		if err == nil && h.Named(h.Update.Name) == nil {
			h.Revisions = append(h.Revisions, h.Update)
		}
	case same.Revision == highest:
		h.Update = same
	default: // a roll back
		renewed := same.DeepCopy()
		renewed.Revision = highest + 1
		h.Update, err = k.Client.AppsV1().ControllerRevisions(renewed.Namespace).Update(ctx, renewed, metav1.UpdateOptions{})
		if err != nil {
			return h, fmt.Errorf("renew revision %s: %w", renewed.Name, err)
		}
		h.Revisions = append(slices.DeleteFunc(h.Revisions, func(r *appsv1.ControllerRevision) bool { return r == same }), h.Update)
	}
	return h, err
}

func (k Keeper) claim(owner Owner) reconcile.Claim[*appsv1.ControllerRevision] {
	return reconcile.Claim[*appsv1.ControllerRevision]{
		Owner:    owner.Object,
		Kind:     owner.Kind,
		Selector: owner.Selector,
		Fresh:    owner.Fresh,
		Patch: func(ctx context.Context, r *appsv1.ControllerRevision, patch []byte) error {
			_, err := k.Client.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
}

func older(a, b *appsv1.ControllerRevision) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// create writes a revision under the first name that is free or its own, and
// counts the others as collisions.
func (k Keeper) create(ctx context.Context, owner Owner, data []byte, number int64, collisions **int32) (*appsv1.ControllerRevision, error) {
	prefix := owner.Object.GetName()
	prefix = prefix[:min(len(prefix), prefixLimit)]
	count := int32(0)
	if *collisions != nil {
		count = **collisions
	}
	for range collisionTries {
		hash := hashOf(data, count)
		r := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Name:            prefix + "-" + hash,
				Namespace:       owner.Object.GetNamespace(),
				Labels:          maps.Clone(owner.Template.Labels),
				Annotations:     maps.Clone(owner.Object.GetAnnotations()),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner.Object, owner.Kind)},
			},
			Data:     runtime.RawExtension{Raw: data},
			Revision: number,
		}
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[hashLabel] = hash
		r.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
		created, err := k.Client.AppsV1().ControllerRevisions(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
		if err == nil {
			return created, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("create revision %s: %w", r.Name, err)
		}
		there, err := k.Client.AppsV1().ControllerRevisions(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read revision %s: %w", r.Name, err)
		}
		if metav1.IsControlledBy(there, owner.Object) && equal(there, data, owner.Template) {
			return there, nil
		}
		count++
		*collisions = &count
	}
	return nil, fmt.Errorf("create revision of %s: %d names are taken", prefix, collisionTries)
}

func hashOf(data []byte, collisions int32) string {
	h := fnv.New32()
	h.Write(data)
	if collisions > 0 {
		fmt.Fprint(h, collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// Trim deletes the oldest revisions beyond owner's limit; those that live names
// and the present one do not count.
func (k Keeper) Trim(ctx context.Context, owner Owner, h History, live func(name string) bool) error {
	if owner.Limit == nil {
		return nil
	}
	idle := slices.DeleteFunc(slices.Clone(h.Revisions), func(r *appsv1.ControllerRevision) bool {
		return r.Name == h.Update.Name || live(r.Name)
	})
	var errs []error
	for _, r := range idle[:max(0, len(idle)-int(*owner.Limit))] {
		err := k.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete revision %s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// encode makes the patch that puts template back, in the shape that kubectl
// reads.
func encode(template *corev1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template returns the template that a revision keeps.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("decode revision %s: %w", r.Name, err)
	}
	return &data.Spec.Template, nil
}

func equal(r *appsv1.ControllerRevision, data []byte, template *corev1.PodTemplateSpec) bool {
	if bytes.Equal(r.Data.Raw, data) {
		return true
	}
	kept, err := Template(r)
	return err == nil && equality.Semantic.DeepEqual(kept, template)
}
