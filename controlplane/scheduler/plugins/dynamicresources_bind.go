package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"clusterctl/controlplane/scheduler/picture"
)

const (
	// readyTimeout is how long a driver may take to make devices ready on the
	// node of the pod, before others are chosen.
	readyTimeout = 10 * time.Minute
	readyPoll    = time.Second
	// discardTimeout bounds how long a claim is tried to be deleted after a failure.
	discardTimeout = 10 * time.Second
)

// PreBind writes into the pod's claims what was reserved, and waits for devices
// that have to be made ready.
func (p *DynamicResources) PreBind(ctx context.Context, pod *v1.Pod, _ string) error {
	p.mu.Lock()
	list := p.reserved[pod.UID]
	p.mu.Unlock()
	for i := range list {
		if err := p.bind(ctx, pod, &list[i]); err != nil {
			return err
		}
	}
	p.take(pod.UID) // all of it is in the claims
	return nil
}

// bind does what has to be done for one claim. A claim that was made for extended
// resources does not outlive a failure.
func (p *DynamicResources) bind(ctx context.Context, pod *v1.Pod, r *reservation) error {
	if r.mappings != nil {
		claim, err := p.client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, r.claim, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create claim for extended resources: %w", err)
		}
		r.claim = claim
		r.allocation.Made.Store(&claim.UID)
	}
	claim, err := p.write(ctx, pod, *r)
	if err == nil && r.mappings != nil {
		err = p.tell(ctx, pod, claim, r.mappings)
	}
	if err == nil {
		err = p.awaitDevices(ctx, claim)
	}
	if err != nil && r.mappings != nil {
		// Even where the scheduler stops; what cannot be deleted now is found by the
		// next attempt.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
		defer cancel()
		err = errors.Join(err, p.discard(ctx, r.claim))
	}
	return err
}

// tell says in the status of a pod which claim has its extended resources.
func (p *DynamicResources) tell(ctx context.Context, pod *v1.Pod, claim *resourcev1.ResourceClaim, mappings []v1.ContainerExtendedResourceRequest) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{
		"extendedResourceClaimStatus": v1.PodExtendedResourceClaimStatus{ResourceClaimName: claim.Name, RequestMappings: mappings},
	}})
	if err != nil {
		return fmt.Errorf("marshal status of extended resources: %w", err)
	}
	_, err = p.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("name claim of extended resources in pod's status: %w", err)
	}
	return nil
}

// discard deletes a claim that was made for extended resources.
func (p *DynamicResources) discard(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	api := p.client.ResourceV1().ResourceClaims(claim.Namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := api.Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if current.UID != claim.UID || !slices.Contains(current.Finalizers, resourcev1.Finalizer) {
			return nil
		}
		current.Finalizers = slices.DeleteFunc(current.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		_, err = api.Update(ctx, current, metav1.UpdateOptions{})
		return err
	})
	if err == nil {
		err = api.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete claim for extended resources %s: %w", claim.Name, err)
	}
	return nil
}

// write makes a claim the pod's. It tries again where the claim changed in the
// meantime without being allocated.
func (p *DynamicResources) write(ctx context.Context, pod *v1.Pod, r reservation) (*resourcev1.ResourceClaim, error) {
	api := p.client.ResourceV1().ResourceClaims(r.claim.Namespace)
	claim, stale := r.claim.DeepCopy(), false
	err := retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		if stale {
			if claim, err = api.Get(ctx, r.claim.Name, metav1.GetOptions{}); err != nil {
				return fmt.Errorf("read claim %s again: %w", r.claim.Name, err)
			}
		}
		stale = true
		switch {
		case claim.UID != r.claim.UID || claim.DeletionTimestamp != nil:
			return fmt.Errorf("claim %s got deleted in the meantime", claim.Name)
		case r.allocation == nil && claim.Status.Allocation == nil:
			return fmt.Errorf("claim %s got deallocated elsewhere in the meantime", claim.Name)
		case r.allocation != nil && claim.Status.Allocation != nil:
			return fmt.Errorf("claim %s got allocated elsewhere in the meantime", claim.Name)
		}
		if r.allocation != nil && !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
			claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
			if claim, err = api.Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("add finalizer to claim %s: %w", r.claim.Name, err)
			}
		}
		if claim, err = api.UpdateStatus(ctx, assigned(claim, pod, r.allocation), metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("reserve claim %s: %w", r.claim.Name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if r.allocation != nil {
		r.allocation.Written.Store(&claim.ResourceVersion)
	}
	return claim, nil
}

// assigned gives a claim its devices, and the pod as one that uses it.
func assigned(claim *resourcev1.ResourceClaim, pod *v1.Pod, allocation *picture.Pending) *resourcev1.ResourceClaim {
	if allocation != nil {
		claim.Status.Allocation = allocation.Result.DeepCopy()
		if claim.Status.Allocation.AllocationTimestamp == nil {
			now := metav1.Now()
			claim.Status.Allocation.AllocationTimestamp = &now
		}
	}
	if !slices.ContainsFunc(claim.Status.ReservedFor, func(c resourcev1.ResourceClaimConsumerReference) bool { return c.UID == pod.UID }) {
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	}
	return claim
}

var errDevicesFailed = errors.New("device binding failed")

// awaitDevices waits until the devices of a claim are ready.
func (p *DynamicResources) awaitDevices(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	for {
		ready, err := devicesReady(claim)
		if err != nil || ready {
			return err
		}
		if bindingExpired(claim) {
			return fmt.Errorf("device binding timeout: claim=%s", claim.Name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(readyPoll):
		}
		if claim, err = p.client.ResourceV1().ResourceClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("wait for devices of claim: %w", err)
		}
	}
}

// bindingConditions are the results of an allocation that have to be waited for.
func bindingConditions(claim *resourcev1.ResourceClaim) []*resourcev1.DeviceRequestAllocationResult {
	var results []*resourcev1.DeviceRequestAllocationResult
	if a := claim.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			if len(a.Devices.Results[i].BindingConditions) > 0 {
				results = append(results, &a.Devices.Results[i])
			}
		}
	}
	return results
}

// devicesReady says whether a pod can use the devices of an allocated claim
// now; an error, that it never will.
func devicesReady(claim *resourcev1.ResourceClaim) (bool, error) {
	if claim.Status.Allocation == nil {
		return false, nil
	}
	ready := true
	for _, r := range bindingConditions(claim) {
		i := slices.IndexFunc(claim.Status.Devices, func(s resourcev1.AllocatedDeviceStatus) bool {
			return s.Driver == r.Driver && s.Pool == r.Pool && s.Device == r.Device && (s.ShareID == nil) == (r.ShareID == nil) && (s.ShareID == nil || *s.ShareID == string(*r.ShareID))
		})
		if i < 0 {
			ready = false
			continue
		}
		conditions := claim.Status.Devices[i].Conditions
		for _, kind := range r.BindingFailureConditions {
			if c := meta.FindStatusCondition(conditions, kind); c != nil && c.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("%w: claim=%s, reason=%s, message=%q", errDevicesFailed, claim.Name, c.Reason, c.Message)
			}
		}
		for _, kind := range r.BindingConditions {
			ready = ready && meta.IsStatusConditionTrue(conditions, kind)
		}
	}
	return ready, nil
}

// bindingExpired says that devices had their time to become ready.
func bindingExpired(claim *resourcev1.ResourceClaim) bool {
	a := claim.Status.Allocation
	return a == nil || a.AllocationTimestamp != nil && len(bindingConditions(claim)) > 0 && time.Since(a.AllocationTimestamp.Time) > readyTimeout
}

// deallocate takes its devices from a claim.
func (p *DynamicResources) deallocate(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	claim = claim.DeepCopy()
	claim.Status = resourcev1.ResourceClaimStatus{}
	if _, err := p.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("deallocate claim %s: %w", claim.Name, err)
	}
	return nil
}
