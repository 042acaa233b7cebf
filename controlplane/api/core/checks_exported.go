package core

import (
	corev1 "k8s.io/api/core/v1"
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
