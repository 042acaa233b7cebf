package storageprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"

	workers = 2
)

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	var all reconcile.All
	for _, part := range []func(*reconcile.Environment) (*reconcile.Loop, error){newClaims, newVolumes, newClasses} {
		loop, err := part(env)
		if err != nil {
			return nil, err
		}
		all = append(all, loop)
	}
	return all, nil
}

// object is a pointer to an API object.
type object[T any] interface {
	metav1.Object
	DeepCopy() T
}

// protection is how the objects of one kind lose their finalizer.
type protection[T object[T]] struct {
	finalizer string
	get       func(key string) (T, error) // from the cache
	used      func(ctx context.Context, obj T) (bool, error)
	update    func(ctx context.Context, obj T) error
}

// reconcile removes the finalizer of an object that is deleted and not used, and
// gives it to one that lacks it, as one made before it was protected.
// The update carries the version that was judged, so that it fails on any other.
func (p protection[T]) reconcile(ctx context.Context, key string) error {
	obj, err := p.get(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	has := slices.Contains(obj.GetFinalizers(), p.finalizer)
	switch {
	case obj.GetDeletionTimestamp() == nil && !has:
		guarded := obj.DeepCopy()
		guarded.SetFinalizers(append(guarded.GetFinalizers(), p.finalizer))
		if err := p.update(ctx, guarded); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("add finalizer %s: %w", p.finalizer, err)
		}
		return nil
	case obj.GetDeletionTimestamp() == nil || !has:
		return nil
	}
	if used, err := p.used(ctx, obj); err != nil || used {
		return err
	}
	freed := obj.DeepCopy()
	freed.SetFinalizers(slices.DeleteFunc(freed.GetFinalizers(), func(f string) bool { return f == p.finalizer }))
	if err := p.update(ctx, freed); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove finalizer %s: %w", p.finalizer, err)
	}
	return nil
}

// loop makes the loop of p, which looks at every object of informer that
// appears or changes.
func (p protection[T]) loop(env *reconcile.Environment, name string, informer cache.SharedIndexInformer) (*reconcile.Loop, error) {
	loop := reconcile.NewLoop(env, name, workers, p.reconcile)
	return loop, reconcile.Watch(env, informer, reconcile.Handlers[T]{
		Add:    func(obj T) { loop.AddObject(obj) },
		Update: func(_, obj T) { loop.AddObject(obj) },
	})
}

func newVolumes(env *reconcile.Environment) (*reconcile.Loop, error) {
	return volumeProtection(env).loop(env, "pvprotection", env.Informers.Core().V1().PersistentVolumes().Informer())
}

// volumeProtection keeps volumes for as long as they are bound.
func volumeProtection(env *reconcile.Environment) protection[*corev1.PersistentVolume] {
	return protection[*corev1.PersistentVolume]{
		get:       env.Informers.Core().V1().PersistentVolumes().Lister().Get,
		finalizer: volumeFinalizer,
		used: func(_ context.Context, volume *corev1.PersistentVolume) (bool, error) {
			return volume.Status.Phase == corev1.VolumeBound, nil
		},
		update: func(ctx context.Context, volume *corev1.PersistentVolume) error {
			_, err := env.Client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{})
			return err
		},
	}
}

func newClasses(env *reconcile.Environment) (*reconcile.Loop, error) {
	loop, err := classProtection(env).loop(env, "vacprotection", env.Informers.Storage().V1().VolumeAttributesClasses().Informer())
	if err != nil {
		return nil, err
	}
	if err := wake(env, loop, env.Informers.Core().V1().PersistentVolumes().Informer(), classesOfVolume); err != nil {
		return nil, err
	}
	return loop, wake(env, loop, env.Informers.Core().V1().PersistentVolumeClaims().Informer(), classesOfClaim)
}

// classProtection keeps volume attributes classes for as long as a claim or a
// volume names them.
func classProtection(env *reconcile.Environment) protection[*storagev1.VolumeAttributesClass] {
	volumes := env.Informers.Core().V1().PersistentVolumes().Informer()
	claims := env.Informers.Core().V1().PersistentVolumeClaims().Informer()
	return protection[*storagev1.VolumeAttributesClass]{
		finalizer: classFinalizer,
		get:       env.Informers.Storage().V1().VolumeAttributesClasses().Lister().Get,
		used: func(_ context.Context, class *storagev1.VolumeAttributesClass) (bool, error) {
			return anyNames(volumes, classesOfVolume, class.Name) ||
				anyNames(claims, classesOfClaim, class.Name), nil
		},
		update: func(ctx context.Context, class *storagev1.VolumeAttributesClass) error {
			_, err := env.Client.StorageV1().VolumeAttributesClasses().Update(ctx, class, metav1.UpdateOptions{})
			return err
		},
	}
}

// wake looks again at what an object named before it changed or went.
func wake[T any](env *reconcile.Environment, loop *reconcile.Loop, informer cache.SharedIndexInformer, keys func(T) []string) error {
	add := func(obj T) {
		for _, key := range keys(obj) {
			loop.Add(key)
		}
	}
	return reconcile.Watch(env, informer, reconcile.Handlers[T]{Update: func(old, _ T) { add(old) }, Delete: add})
}

func anyNames[T any](informer cache.SharedIndexInformer, names func(T) []string, name string) bool {
	return slices.ContainsFunc(informer.GetStore().List(), func(obj any) bool {
		o, ok := obj.(T)
		return ok && slices.Contains(names(o), name)
	})
}

func classesOfVolume(volume *corev1.PersistentVolume) []string {
	return named(volume.Spec.VolumeAttributesClassName)
}

// classesOfClaim names the class a claim wants, the one it has and the one it
// is on its way to.
func classesOfClaim(claim *corev1.PersistentVolumeClaim) []string {
	names := named(claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName)
	if s := claim.Status.ModifyVolumeStatus; s != nil {
		names = append(names, named(&s.TargetVolumeAttributesClassName)...)
	}
	return names
}

func named(names ...*string) []string {
	var result []string
	for _, name := range names {
		if name != nil && *name != "" {
			result = append(result, *name)
		}
	}
	return result
}
