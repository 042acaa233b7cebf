package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Claim settles which objects an owner controls: it adopts orphans that its
// selector matches and releases its own that the selector matches no more.
type Claim[T metav1.Object] struct {
	Owner    metav1.Object
	Kind     schema.GroupVersionKind // of Owner
	Selector labels.Selector
	// Finalizer, unless "", is given to what is adopted.
	Finalizer string
	// Fresh reads the owner from the API server, not from a cache. It is
	// called once, before the first adoption: a cache that still shows a
	// deleted owner must not adopt anything.
	Fresh func(ctx context.Context) (metav1.Object, error)
	// Patch sends a strategic merge patch for one object.
	Patch func(ctx context.Context, obj T, patch []byte) error
}

// Resolve returns those of candidates that the owner controls afterwards. An
// object that cannot be adopted or released is left out and its error joined.
func (c Claim[T]) Resolve(ctx context.Context, candidates []T) ([]T, error) {
	var claimed []T
	var errs []error
	checked := false
	var checkErr error
	for _, obj := range candidates {
		matches := c.Selector.Matches(labels.Set(obj.GetLabels()))
		ref := metav1.GetControllerOfNoCopy(obj)
		switch {
		case ref != nil && ref.UID != c.Owner.GetUID():
			// somebody else's
		case ref != nil && matches:
			claimed = append(claimed, obj)
		case ref != nil:
			if c.Owner.GetDeletionTimestamp() == nil {
				errs = append(errs, c.release(ctx, obj))
			}
		case matches && c.Owner.GetDeletionTimestamp() == nil && obj.GetDeletionTimestamp() == nil:
			if !checked {
				checked, checkErr = true, c.mayAdopt(ctx)
				errs = append(errs, checkErr)
			}
			if checkErr != nil {
				continue
			}
			switch err := c.adopt(ctx, obj); {
			case err == nil:
				claimed = append(claimed, obj)
			case !apierrors.IsNotFound(err):
				errs = append(errs, fmt.Errorf("adopt %s: %w", Key(obj), err))
			}
		}
	}
	return claimed, errors.Join(errs...)
}

func (c Claim[T]) mayAdopt(ctx context.Context) error {
	fresh, err := c.Fresh(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("read %s before adoption: %w", Key(c.Owner), err)
	case fresh.GetUID() != c.Owner.GetUID():
		return fmt.Errorf("%s is another object by now: %w", Key(c.Owner), ErrStale)
	case fresh.GetDeletionTimestamp() != nil:
		return fmt.Errorf("%s is being deleted: %w", Key(c.Owner), ErrStale)
	}
	return nil
}

type refPatch struct {
	Metadata struct {
		UID             types.UID `json:"uid"`
		OwnerReferences []any     `json:"ownerReferences"`
		Finalizers      []string  `json:"finalizers,omitempty"`
	} `json:"metadata"`
}

func (c Claim[T]) adopt(ctx context.Context, obj T) error {
	var p refPatch
	p.Metadata.UID = obj.GetUID()
	p.Metadata.OwnerReferences = []any{metav1.NewControllerRef(c.Owner, c.Kind)}
	if c.Finalizer != "" {
		p.Metadata.Finalizers = []string{c.Finalizer}
	}
	return c.send(ctx, obj, p)
}

// release succeeds too where the object is gone or no longer the one meant.
func (c Claim[T]) release(ctx context.Context, obj T) error {
	var p refPatch
	p.Metadata.UID = obj.GetUID()
	p.Metadata.OwnerReferences = []any{map[string]any{"$patch": "delete", "uid": c.Owner.GetUID()}}
	err := c.send(ctx, obj, p)
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("release %s: %w", Key(obj), err)
}

func (c Claim[T]) send(ctx context.Context, obj T, p refPatch) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return c.Patch(ctx, obj, raw)
}
