package admission

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	listers "k8s.io/client-go/listers/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

var claimResource = corev1.Resource("persistentvolumeclaims")

// defaultStorageClass gives claims that name no class the default one.
type defaultStorageClass struct {
	*admission.Handler
	classes listers.StorageClassLister
}

var _ admission.MutationInterface = (*defaultStorageClass)(nil)

func newDefaultStorageClass(config Config) (admission.Interface, error) {
	informer := config.Informers.Storage().V1().StorageClasses()
	p := &defaultStorageClass{admission.NewHandler(admission.Create), informer.Lister()}
	p.SetReadyFunc(informer.Informer().HasSynced)
	return p, nil
}

func (p *defaultStorageClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != claimResource || a.GetSubresource() != "" {
		return nil
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || volume.PersistentVolumeClaimHasClass(claim) {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	classes, err := p.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	classes = slices.DeleteFunc(classes, func(c *storagev1.StorageClass) bool {
		return c.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" &&
			c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] != "true"
	})
	if len(classes) > 0 {
		claim.Spec.StorageClassName = ptr.To(newest(classes))
	}
	return nil
}

// newest names the object made last; of those made in the same second, the
// first by name. objects is not empty.
func newest[T metav1.Object](objects []T) string {
	return slices.MinFunc(objects, func(a, b T) int {
		return cmp.Or(b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time), cmp.Compare(a.GetName(), b.GetName()))
	}).GetName()
}

// inUseProtection gives volumes and claims the finalizer that keeps them while
// something uses them. Controllers take it away.
type inUseProtection struct{ *admission.Handler }

var _ admission.MutationInterface = inUseProtection{}

func newInUseProtection(Config) (admission.Interface, error) {
	return inUseProtection{admission.NewHandler(admission.Create)}, nil
}

var protected = map[schema.GroupResource]string{
	corev1.Resource("persistentvolumes"): "kubernetes.io/pv-protection",
	claimResource:                        "kubernetes.io/pvc-protection",
	{Group: storagev1.GroupName, Resource: "volumeattributesclasses"}: "kubernetes.io/vac-protection",
}

func (inUseProtection) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	finalizer, ok := protected[a.GetResource().GroupResource()]
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	object, err := meta.Accessor(a.GetObject())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if have := object.GetFinalizers(); !slices.Contains(have, finalizer) {
		object.SetFinalizers(append(have, finalizer))
	}
	return nil
}

// claimResize lets claims grow only where their class can.
type claimResize struct {
	*admission.Handler
	classes listers.StorageClassLister
}

var _ admission.ValidationInterface = (*claimResize)(nil)

func newClaimResize(config Config) (admission.Interface, error) {
	informer := config.Informers.Storage().V1().StorageClasses()
	p := &claimResize{admission.NewHandler(admission.Update), informer.Lister()}
	p.SetReadyFunc(informer.Informer().HasSynced)
	return p, nil
}

func (p *claimResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != claimResource || a.GetSubresource() != "" {
		return nil
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, oldOK := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !oldOK {
		return nil
	}
	size, had := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(had) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		//lint:ignore ST1005 Users know the message so.
		return admission.NewForbidden(a, fmt.Errorf("Only bound persistent volume claims can be expanded"))
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	name := volume.GetPersistentVolumeClaimClass(claim)
	if name != "" && name == volume.GetPersistentVolumeClaimClass(old) {
		if class, err := p.classes.Get(name); err == nil && ptr.Deref(class.AllowVolumeExpansion, false) {
			return nil
		}
	}
	return admission.NewForbidden(a, fmt.Errorf("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}
