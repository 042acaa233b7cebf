package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// classInfix stands between a storage class and what a quota counts of it.
const classInfix = ".storageclass.storage.k8s.io/"

func newClaimEvaluator(list generic.ListFuncByNamespace) quota.Evaluator {
	return &evaluator{
		resource: corev1.Resource("persistentvolumeclaims"),
		list:     list,
		handles:  handlesClaim,
		matching: claimResources,
		scope:    claimInScope,
		usage:    claimUsage,
	}
}

func handlesClaim(a admission.Attributes) bool {
	switch a.GetSubresource() {
	case "":
		return a.GetOperation() == admission.Create || a.GetOperation() == admission.Update
	case "status":
		// Growing shows there, and the change of a class.
		claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
		old, oldOK := a.GetOldObject().(*corev1.PersistentVolumeClaim)
		return ok && oldOK && (claim.Status.AllocatedResources.Storage().Cmp(*old.Status.AllocatedResources.Storage()) != 0 ||
			!slices.Equal(attributeClasses(claim), attributeClasses(old)))
	}
	return false
}

func claimResources(names []corev1.ResourceName) []corev1.ResourceName {
	var matching []corev1.ResourceName
	for _, name := range names {
		_, ofClass, found := strings.Cut(string(name), classInfix)
		counted := corev1.ResourceName(ofClass)
		if !found {
			counted = name
		}
		if counted == corev1.ResourcePersistentVolumeClaims || counted == corev1.ResourceRequestsStorage || name == objectCount("persistentvolumeclaims") {
			matching = append(matching, name)
		}
	}
	return matching
}

func claimUsage(object runtime.Object) (corev1.ResourceList, error) {
	claim, err := as[*corev1.PersistentVolumeClaim](object)
	if err != nil {
		return nil, err
	}
	usage := corev1.ResourceList{
		corev1.ResourcePersistentVolumeClaims: count(1),
		objectCount("persistentvolumeclaims"): count(1),
	}
	if size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		// Until a claim that shrinks again has done so, it has what it had.
		if allocated := claim.Status.AllocatedResources.Storage(); allocated.Cmp(size) > 0 {
			size = *allocated
		}
		size = size.DeepCopy()
		size.RoundUp(0) // quotas count whole bytes
		usage[corev1.ResourceRequestsStorage] = size
	}
	if class := volume.GetPersistentVolumeClaimClass(claim); class != "" {
		for _, name := range []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage} {
			if used, ok := usage[name]; ok {
				usage[corev1.ResourceName(class)+classInfix+name] = used
			}
		}
	}
	return usage, nil
}

func claimInScope(scope corev1.ScopedResourceSelectorRequirement, object runtime.Object) (bool, error) {
	claim, err := as[*corev1.PersistentVolumeClaim](object)
	if err != nil || scope.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, err
	}
	return selects(scope, attributeClasses(claim)...)
}

// attributeClasses are the classes that a claim has, had or is to have.
func attributeClasses(claim *corev1.PersistentVolumeClaim) []string {
	classes := []string{ptr.Deref(claim.Spec.VolumeAttributesClassName, ""), ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, "")}
	if status := claim.Status.ModifyVolumeStatus; status != nil {
		classes = append(classes, status.TargetVolumeAttributesClassName)
	}
	slices.Sort(classes)
	return slices.DeleteFunc(slices.Compact(classes), func(c string) bool { return c == "" })
}
