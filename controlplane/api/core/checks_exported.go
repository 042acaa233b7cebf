package core

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Parts of a pod's checks that kinds of other groups need.

// ValidateTolerations checks a list of tolerations.
func ValidateTolerations(list []corev1.Toleration, path *field.Path) field.ErrorList {
	return validateTolerations(list, path)
}

// ValidateOverhead checks what a runtime costs beside a pod's containers.
func ValidateOverhead(overhead corev1.ResourceList, path *field.Path) field.ErrorList {
	return validateResources(&corev1.ResourceRequirements{Limits: overhead}, nil, path, validateContainerResourceName)
}

// ValidateContainerResourceName checks the name of a resource that containers
// can ask for.
func ValidateContainerResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	return validateContainerResourceName(name, path)
}

// IsExtendedResource says whether a name is a device plugin's or operator's.
func IsExtendedResource(name corev1.ResourceName) bool { return isExtendedResource(name) }

// ValidateTemplateMeta checks the metadata that objects made from a template
// get: labels and annotations, nothing else.
func ValidateTemplateMeta(meta metav1.ObjectMeta, path *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(meta.Annotations, path.Child("annotations"))
	errs = append(errs, unversioned.ValidateLabels(meta.Labels, path.Child("labels"))...)
	meta.Annotations, meta.Labels = nil, nil
	value := reflect.ValueOf(meta)
	for i := range value.NumField() {
		if name := value.Type().Field(i).Name; !value.Field(i).IsZero() {
			errs = append(errs, field.Forbidden(path.Child(strings.ToLower(name[:1])+name[1:]), "cannot be set"))
		}
	}
	return errs
}
