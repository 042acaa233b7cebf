package ephemeralvolume

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 5

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

type controller struct {
	env      *reconcile.Environment
	recorder record.EventRecorder
	pods     corelisters.PodLister
	claims   corelisters.PersistentVolumeClaimLister
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	core := env.Informers.Core().V1()
	c := &controller{env: env, recorder: env.Recorder("ephemeral_volume"), pods: core.Pods().Lister(), claims: core.PersistentVolumeClaims().Lister()}
	loop := reconcile.NewLoop(env, "ephemeralvolume", workers, c.reconcile)
	err := reconcile.Watch(env, core.Pods().Informer(), reconcile.Handlers[*corev1.Pod]{Add: func(pod *corev1.Pod) {
		if hasEphemeral(pod, "") {
			loop.AddObject(pod)
		}
	}})
	if err != nil {
		return nil, err
	}
	// Somebody deleted a claim that a pod still needs, or one of that name which
	// stood in the way.
	return loop, reconcile.Watch(env, core.PersistentVolumeClaims().Informer(), reconcile.Handlers[*corev1.PersistentVolumeClaim]{Delete: func(claim *corev1.PersistentVolumeClaim) {
		pods, err := c.pods.Pods(claim.Namespace).List(labels.Everything())
		if err != nil {
			loop.Logger().Warn("list pods", "error", err) // of a cache: cannot be
			return
		}
		for _, pod := range pods {
			if hasEphemeral(pod, claim.Name) {
				loop.AddObject(pod)
			}
		}
	}})
}

// hasEphemeral says whether a pod brings a claim of this name; "" is any.
func hasEphemeral(pod *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Ephemeral != nil && (claim == "" || ephemeral.VolumeClaimName(pod, &v) == claim)
	})
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	pod, err := c.pods.Pods(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case pod.DeletionTimestamp != nil:
		return nil // its claims go with it
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		if err := c.claim(ctx, pod, v); err != nil {
			c.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return fmt.Errorf("ephemeral volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// claim makes the claim of one volume, unless it is there.
func (c *controller) claim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	name := ephemeral.VolumeClaimName(pod, v)
	switch existing, err := c.claims.PersistentVolumeClaims(pod.Namespace).Get(name); {
	case err == nil:
		return ephemeral.VolumeIsForPod(pod, existing)
	case !apierrors.IsNotFound(err):
		return err
	}
	template := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	_, err := c.env.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, podKind)},
		},
		Spec: template.Spec,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return nil
}
