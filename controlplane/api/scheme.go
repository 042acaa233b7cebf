package api

import (
	"fmt"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// published registers the external types, the ones of subresources and
// options (Scale, TokenRequest, PodLogOptions) included.
var published = runtime.SchemeBuilder{
	admissionregistrationv1.AddToScheme,
	appsv1.AddToScheme,
	authenticationv1.AddToScheme,
	authorizationv1.AddToScheme,
	autoscalingv1.AddToScheme,
	autoscalingv2.AddToScheme,
	batchv1.AddToScheme,
	certificatesv1.AddToScheme,
	coordinationv1.AddToScheme,
	corev1.AddToScheme,
	discoveryv1.AddToScheme,
	eventsv1.AddToScheme,
	flowcontrolv1.AddToScheme,
	networkingv1.AddToScheme,
	nodev1.AddToScheme,
	policyv1.AddToScheme,
	rbacv1.AddToScheme,
	resourcev1.AddToScheme,
	schedulingv1.AddToScheme,
	storagev1.AddToScheme,
}

// NewExternalScheme knows the published types only. OpenAPI names kinds by it,
// so that no internal version shows.
func NewExternalScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if err := published.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register published types: %w", err)
	}
	if err := scheme.SetVersionPriority(autoscalingv2.SchemeGroupVersion, autoscalingv1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("prefer autoscaling/v2: %w", err)
	}
	return scheme, nil
}

// superseded reports whether a version that the group prefers has the kind too:
// then that version's type is the internal one.
func superseded(scheme *runtime.Scheme, gvk schema.GroupVersionKind) bool {
	for _, preferred := range scheme.PrioritizedVersionsForGroup(gvk.Group) {
		if preferred.Version == gvk.Version {
			return false
		}
		if scheme.Recognizes(preferred.WithKind(gvk.Kind)) {
			return true
		}
	}
	return false
}

// NewScheme knows the published types under their external and, after it, under
// their group's internal version, and what kinds register beside them.
func NewScheme(kinds []Kind) (*runtime.Scheme, error) {
	scheme, err := NewExternalScheme()
	if err != nil {
		return nil, err
	}
	for gvk, t := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || strings.HasPrefix(t.PkgPath(), "k8s.io/apimachinery/") || superseded(scheme, gvk) {
			continue
		}
		object, err := scheme.New(gvk)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", gvk, err)
		}
		internal := schema.GroupVersionKind{Group: gvk.Group, Version: runtime.APIVersionInternal, Kind: gvk.Kind}
		scheme.AddKnownTypeWithName(internal, object)
	}
	for _, kind := range kinds {
		if err := kind.Register(scheme); err != nil {
			return nil, fmt.Errorf("register %s: %w", kind.Name(), err)
		}
	}
	return scheme, nil
}
