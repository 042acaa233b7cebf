package flowcontrol

import (
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"

	"clusterctl/controlplane/api"
)

// EnsureBootstrap creates the levels and schemas that every cluster has, and
// brings those that are there up to date: mandatory ones always, suggested ones
// unless an administrator changed them or said not to, by the annotation
// apf.kubernetes.io/autoupdate-spec. It may run on several servers at once.
func EnsureBootstrap(ctx context.Context, client kubernetes.Interface) error {
	levels := kind[*flowcontrolv1.PriorityLevelConfiguration]{
		store:    client.FlowcontrolV1().PriorityLevelConfigurations(),
		complete: defaultLevel,
		copySpec: func(to, from *flowcontrolv1.PriorityLevelConfiguration, mandatory bool) {
			exempt := to.Spec.Exempt
			to.Spec = *from.Spec.DeepCopy()
			if mandatory && exempt != nil {
				to.Spec.Exempt = exempt // an administrator's to choose
			}
		},
	}
	schemas := kind[*flowcontrolv1.FlowSchema]{
		store: client.FlowcontrolV1().FlowSchemas(), complete: defaultSchema,
		copySpec: func(to, from *flowcontrolv1.FlowSchema, _ bool) { to.Spec = *from.Spec.DeepCopy() },
	}
	for _, step := range []func() error{
		func() error { return levels.ensure(ctx, bootstrap.SuggestedPriorityLevelConfigurations, false) },
		func() error { return schemas.ensure(ctx, bootstrap.SuggestedFlowSchemas, false) },
		func() error { return levels.ensure(ctx, bootstrap.MandatoryPriorityLevelConfigurations, true) },
		func() error { return schemas.ensure(ctx, bootstrap.MandatoryFlowSchemas, true) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

type store[T any] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
	Create(ctx context.Context, object T, options metav1.CreateOptions) (T, error)
	Update(ctx context.Context, object T, options metav1.UpdateOptions) (T, error)
}

type kind[T api.Object] struct {
	store    store[T]
	complete func(T) // fills in defaults
	copySpec func(to, from T, mandatory bool)
}

func (k kind[T]) ensure(ctx context.Context, wanted []T, mandatory bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, want := range wanted {
		group.Go(func() error {
			if err := k.ensureOne(ctx, want, mandatory); err != nil {
				return fmt.Errorf("ensure %T %s: %w", want, want.GetName(), err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (k kind[T]) ensureOne(ctx context.Context, want T, mandatory bool) error {
	want = want.DeepCopyObject().(T)
	k.complete(want)
	have, err := k.store.Get(ctx, want.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		want.SetAnnotations(map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"})
		if _, err = k.store.Create(ctx, want, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			return nil // another server was first
		}
		return err
	}
	if err != nil {
		return err
	}
	ours, err := strconv.ParseBool(have.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
	if err != nil {
		ours = have.GetGeneration() == 1 // nobody changed it
	}
	ours = ours || mandatory
	now := have.DeepCopyObject().(T)
	if ours {
		k.copySpec(now, want, mandatory)
	}
	annotations := now.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(ours)
	now.SetAnnotations(annotations)
	if apiequality.Semantic.DeepEqual(now, have) {
		return nil
	}
	if _, err = k.store.Update(ctx, now, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
		return nil // another server was first
	}
	return err
}
