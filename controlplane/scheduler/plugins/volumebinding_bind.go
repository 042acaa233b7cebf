package plugins

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
)

const (
	// volumesTimeout is how long a pod waits for its volumes before another
	// node is tried.
	volumesTimeout = 10 * time.Minute
	// How often it is seen whether they are there: often at first, for
	// provisioners that have nothing to do but write an object.
	firstVolumeCheck = 20 * time.Millisecond
	lastVolumeCheck  = time.Second
)

// PreBind implements framework.PreBindPlugin: it writes what was reserved, and
// waits until controllers have bound the claims.
func (p *VolumeBinding) PreBind(ctx context.Context, pod *v1.Pod, node string) error {
	p.mu.Lock()
	choice := p.reserved[pod.UID]
	p.mu.Unlock()
	if choice == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, volumesTimeout)
	defer cancel()
	for _, v := range choice.bind {
		if _, err := p.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind volume %s: %w", v.Name, err)
		}
	}
	for _, claim := range choice.provision {
		if _, err := p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("select node for claim %s: %w", claim.Name, err)
		}
	}
	for delay := firstVolumeCheck; ; delay = min(2*delay, lastVolumeCheck) {
		done, err := p.settled(ctx, pod, node, choice)
		switch {
		case err != nil:
			return fmt.Errorf("binding volumes: %w", err)
		case done:
			p.take(pod)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("binding volumes: %w", ctx.Err())
		case <-time.After(delay):
		}
	}
}

// settled says whether every claim of a choice is bound to a volume that the
// node reaches; an error: it never will be.
func (p *VolumeBinding) settled(ctx context.Context, pod *v1.Pod, nodeName string, choice *volumeChoice) (bool, error) {
	core := p.client.CoreV1()
	switch now, err := core.Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{}); {
	case apierrors.IsNotFound(err) || err == nil && (now.UID != pod.UID || now.DeletionTimestamp != nil):
		return false, errors.New("pod does not exist any more")
	case err != nil:
		return false, err
	}
	node, err := core.Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("failed to get node %q: %w", nodeName, err)
	}
	reached := func(claim *v1.PersistentVolumeClaim) (bool, error) {
		if !fullyBound(claim) {
			return false, nil
		}
		v, err := core.PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return false, nil
		case err != nil:
			return false, err
		}
		if err := volume.CheckNodeAffinity(v, node.Labels); err != nil {
			return false, fmt.Errorf("pv %q node affinity doesn't match node %q: %w", v.Name, node.Name, err)
		}
		return true, nil
	}
	for i, chosen := range choice.claims {
		claim, err := core.PersistentVolumeClaims(chosen.Namespace).Get(ctx, chosen.Name, metav1.GetOptions{})
		if err != nil {
			return false, fmt.Errorf("failed to check binding: %w", err)
		}
		v, err := core.PersistentVolumes().Get(ctx, choice.bind[i].Name, metav1.GetOptions{})
		if err != nil {
			return false, fmt.Errorf("failed to check binding: %w", err)
		}
		if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == "" {
			return false, fmt.Errorf("ClaimRef got reset for pv %q", v.Name)
		}
		if ok, err := reached(claim); err != nil || !ok {
			return false, err
		}
	}
	for _, chosen := range choice.provision {
		claim, err := core.PersistentVolumeClaims(chosen.Namespace).Get(ctx, chosen.Name, metav1.GetOptions{})
		if err != nil {
			return false, fmt.Errorf("failed to check provisioning pvc: %w", err)
		}
		if claim.Annotations[volume.AnnSelectedNode] != nodeName {
			return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
		}
		if ok, err := reached(claim); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}
