package core

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

// maxDisrupted bounds the evictions that the controller of budgets has not
// confirmed yet, since each is an entry in the budget.
const maxDisrupted = 2000

const refusal = "Cannot evict pod as it would violate the pod's disruption budget."

// budgets reads and spends disruption budgets. ctx names the namespace.
type budgets struct{ env *api.Environment }

// of returns the budgets that guard a pod.
func (b budgets) of(ctx context.Context, pod *corev1.Pod) ([]*policyv1.PodDisruptionBudget, error) {
	lister, ok := b.env.Lookup("policy/poddisruptionbudgets").(rest.Lister)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("look up disruption budgets: not served"))
	}
	object, err := lister.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	list, ok := object.(*policyv1.PodDisruptionBudgetList)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("list disruption budgets: got %T", object))
	}
	var matching []*policyv1.PodDisruptionBudget
	for i := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(list.Items[i].Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			matching = append(matching, &list.Items[i])
		}
	}
	return matching, nil
}

// spares reports whether a pod that is not ready may go without being counted.
func spares(budget *policyv1.PodDisruptionBudget) bool {
	if ptr.Deref(budget.Spec.UnhealthyPodEvictionPolicy, "") == policyv1.AlwaysAllow {
		return true
	}
	return budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
}

// spend takes one disruption off a budget, unless this is a dry run. What it
// writes is judged against the budget it has read: of several that evict at
// once, each takes one.
func (b budgets) spend(ctx context.Context, budget *policyv1.PodDisruptionBudget, pod string, dryRun bool) error {
	getter, err := getter(b.env, "policy/poddisruptionbudgets")
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	updater, ok := b.env.Lookup("policy/poddisruptionbudgets/status").(rest.Updater)
	if !ok {
		return apierrors.NewInternalError(errors.New("look up the status of disruption budgets: not served"))
	}
	fresh := true
	return retry.RetryOnConflict(evictionRetries, func() error {
		if !fresh {
			object, err := getter.Get(ctx, budget.Name, &metav1.GetOptions{})
			if err != nil {
				return err
			}
			if budget, ok = object.(*policyv1.PodDisruptionBudget); !ok {
				return apierrors.NewInternalError(fmt.Errorf("read disruption budget: got %T", object))
			}
		}
		fresh = false
		if err := allows(budget); err != nil || dryRun {
			return err
		}
		spent := budget.DeepCopy()
		spent.Status.DisruptionsAllowed--
		if spent.Status.DisruptionsAllowed == 0 {
			poddisruptionbudget.UpdateDisruptionAllowedCondition(spent)
		}
		if spent.Status.DisruptedPods == nil {
			spent.Status.DisruptedPods = map[string]metav1.Time{}
		}
		// The controller takes the pod for gone until it is, or until this is old.
		spent.Status.DisruptedPods[pod] = metav1.Now()
		_, _, err := updater.Update(ctx, spent.Name, rest.DefaultUpdatedObjectInfo(spent), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		return err
	})
}

// allows returns the refusal of a budget that allows no disruption now.
func allows(budget *policyv1.PodDisruptionBudget) error {
	status := &budget.Status
	forbidden := func(reason string) error {
		return apierrors.NewForbidden(schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudget"}, budget.Name, errors.New(reason))
	}
	switch {
	case status.ObservedGeneration < budget.Generation:
		return stillProcessed(budget.Name)
	case status.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative")
	case len(status.DisruptedPods) > maxDisrupted:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case status.DisruptionsAllowed > 0:
		return nil
	}
	message := fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", budget.Name)
	condition := meta.FindStatusCondition(status.Conditions, policyv1.DisruptionAllowedCondition)
	explained := condition != nil && condition.Status == metav1.ConditionFalse && condition.Message != ""
	switch {
	case explained && condition.Reason == policyv1.SyncFailedReason:
		// Then the counts cannot be trusted.
		message += " because it failed sync: " + condition.Message
	case status.CurrentHealthy <= status.DesiredHealthy:
		message = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, status.DesiredHealthy, status.CurrentHealthy)
	case explained:
		message += fmt.Sprintf(" (%s): %s", condition.Reason, condition.Message)
	}
	return tooMany(message, 0)
}

// stillProcessed asks the client to come back.
func stillProcessed(budget string) error {
	return tooMany(fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget), 10)
}

func tooMany(message string, retryAfterSeconds int) error {
	err := apierrors.NewTooManyRequests(refusal, retryAfterSeconds)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
	return err
}
