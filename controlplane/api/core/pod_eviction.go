package core

import (
	"context"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

// eviction serves pods/eviction: a deletion that a disruption budget may
// refuse, and that tells in the pod's status why it ends.
type eviction struct {
	status  *api.Resource
	budgets budgets
}

var (
	_ rest.NamedCreater             = (*eviction)(nil)
	_ rest.GroupVersionKindProvider = (*eviction)(nil)
	_ rest.GroupVersionAcceptor     = (*eviction)(nil)
)

func (*eviction) New() runtime.Object { return &policyv1.Eviction{} }
func (*eviction) Destroy()            {}

func (*eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (*eviction) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion
}

// evictionRetries is for conflicts with other writers of a pod or a budget.
var evictionRetries = wait.Backoff{Steps: 20, Duration: 500 * time.Millisecond, Factor: 1, Jitter: 0.1}

func (e *eviction) Create(ctx context.Context, name string, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	request, ok := object.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", object))
	}
	if name != request.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deletion, err := evictionOptions(request, options)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, request.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	pod, err := e.evictUnguarded(ctx, name, deletion)
	if err != nil {
		return nil, err
	}
	if pod != nil {
		if refused, err := e.evictGuarded(ctx, pod, deletion); err != nil || refused != nil {
			return refused, err
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// evictionOptions are those of the deletion that an eviction asks for.
func evictionOptions(request *policyv1.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	deletion := &metav1.DeleteOptions{}
	if request.DeleteOptions != nil {
		deletion = request.DeleteOptions.DeepCopy()
	}
	if ptr.Deref(deletion.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		path := field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential")
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: policyv1.GroupName, Kind: "Eviction"}, request.Name,
			field.ErrorList{field.Invalid(path, true, "can not be set for pod eviction, try after removing the option")})
	}
	switch said := deletion.DryRun; {
	case len(said) == 0:
		deletion.DryRun = options.DryRun
	case len(options.DryRun) > 0 && !reflect.DeepEqual(said, options.DryRun):
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, said) //nolint:staticcheck // as clients know it
	}
	return deletion, nil
}

// evictUnguarded evicts a pod that no budget guards: one that has ended, is
// ending or has not started. It returns any other pod, and leaves it alone.
func (e *eviction) evictUnguarded(ctx context.Context, name string, deletion *metav1.DeleteOptions) (guarded *corev1.Pod, err error) {
	pinned := namesVersion(deletion)
	mayRetry := func(err error) bool { return apierrors.IsConflict(err) && !pinned }
	err = retry.OnError(evictionRetries, mayRetry, func() error {
		object, err := e.status.Get(ctx, name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod, ok := object.(*corev1.Pod)
		if !ok {
			return apierrors.NewInternalError(fmt.Errorf("evict %s: want a pod, got %T", name, object))
		}
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
		switch {
		case ended || pinned && pod.Status.Phase == corev1.PodPending:
			return e.evict(ctx, name, deletion)
		case pod.Status.Phase == corev1.PodPending:
			// Meanwhile it could start, and count.
			return e.evict(ctx, name, atVersion(deletion, pod.ResourceVersion))
		}
		guarded = pod
		return nil
	})
	return guarded, err
}

// evictGuarded evicts a running pod, if its budget allows. A status that it
// returns is the refusal of a pod with several budgets.
func (e *eviction) evictGuarded(ctx context.Context, pod *corev1.Pod, deletion *metav1.DeleteOptions) (runtime.Object, error) {
	matching, err := e.budgets.of(ctx, pod)
	switch {
	case err != nil:
		return nil, err
	case len(matching) == 0:
		return nil, e.evict(ctx, pod.Name, deletion)
	case len(matching) > 1:
		return &metav1.Status{
			Status:  metav1.StatusFailure,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
			Code:    500,
		}, nil
	}
	budget := matching[0]
	if !isTrue(pod, corev1.PodReady) && spares(budget) {
		// It costs nothing, unless it has become ready meanwhile.
		err := e.evict(ctx, pod.Name, atVersion(deletion, pod.ResourceVersion))
		if apierrors.IsConflict(err) && !namesVersion(deletion) {
			return nil, stillProcessed(budget.Name)
		}
		return nil, err
	}
	if err := e.budgets.spend(ctx, budget, pod.Name, dryrun.IsDryRun(deletion.DryRun)); err != nil {
		return nil, err
	}
	return nil, e.evict(ctx, pod.Name, deletion)
}

// namesVersion reports whether a deletion is of one version of the object.
func namesVersion(deletion *metav1.DeleteOptions) bool {
	return deletion.Preconditions != nil && deletion.Preconditions.ResourceVersion != nil
}

func atVersion(deletion *metav1.DeleteOptions, version string) *metav1.DeleteOptions {
	deletion = deletion.DeepCopy()
	if deletion.Preconditions == nil {
		deletion.Preconditions = &metav1.Preconditions{}
	}
	deletion.Preconditions.ResourceVersion = &version
	return deletion
}

// evict notes the reason in the pod's status and deletes the pod.
func (e *eviction) evict(ctx context.Context, name string, deletion *metav1.DeleteOptions) error {
	deletion = deletion.DeepCopy()
	if !dryrun.IsDryRun(deletion.DryRun) {
		note := func(_ context.Context, _, current runtime.Object) (runtime.Object, error) {
			pod := current.(*corev1.Pod).DeepCopy()
			if err := checkPreconditions(pod, deletion.Preconditions); err != nil {
				return nil, err
			}
			SetPodCondition(&pod.Status, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
				Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
			return pod, nil
		}
		noted, _, err := e.status.Update(ctx, name, rest.DefaultUpdatedObjectInfo(nil, note), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		if p := deletion.Preconditions; p != nil && p.ResourceVersion != nil {
			p.ResourceVersion = ptr.To(noted.(*corev1.Pod).ResourceVersion)
		}
	}
	_, _, err := e.status.Delete(ctx, name, rest.ValidateAllObjectFunc, deletion)
	return err
}

func checkPreconditions(pod *corev1.Pod, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if uid := ptr.Deref(p.UID, types.UID("")); uid != "" && uid != pod.UID {
		return apierrors.NewConflict(pods, pod.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", uid, pod.UID))
	}
	if rv := ptr.Deref(p.ResourceVersion, ""); rv != "" && rv != pod.ResourceVersion {
		return apierrors.NewConflict(pods, pod.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", rv, pod.ResourceVersion))
	}
	return nil
}
