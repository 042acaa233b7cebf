package admission

import (
	"errors"
	"fmt"
	"io"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// Config is what the plugins work with. All but the options at its end is
// needed.
type Config struct {
	// Client is the server's own; it is used while requests are served, for
	// what the informers do not have yet.
	Client kubernetes.Interface
	// Informers are started by the caller, after NewChain. Plugins wait for
	// those they need, up to ten seconds a request.
	Informers  informers.SharedInformerFactory
	Authorizer authorizer.Authorizer
	// Dynamic and Mapper find the parameters of policies, whatever their kind.
	Dynamic dynamic.Interface
	Mapper  meta.RESTMapper
	// Drained is closed when the last request has been answered.
	Drained <-chan struct{}

	// Services finds where webhooks listen that are named by service; nil: by
	// the service's name in the DNS.
	Services webhook.ServiceResolver
	// Served tells which resources the server has; nil: all. Plugins that
	// watch a resource that it has not are left out.
	Served func(schema.GroupResource) bool
	// AlwaysPullImages makes nodes pull every container's image each time.
	AlwaysPullImages bool
	// PodSecurity is the level ("baseline" or "restricted") that pods in
	// namespaces without labels of their own have to meet. Without one they
	// are warned about below baseline.
	PodSecurity string
}

// plugin is one link of the chain.
type plugin struct {
	name string
	make func(Config) (admission.Interface, error)
	// needs are the resources beside namespaces, pods and the like that the
	// plugin watches.
	needs []schema.GroupResource
	// wanted says whether the configuration asks for the plugin; nil: always.
	wanted func(Config) bool
}

var (
	limitRanges    = corev1.Resource("limitranges")
	storageClasses = schema.GroupResource{Group: storagev1.GroupName, Resource: "storageclasses"}
	runtimeClasses = schema.GroupResource{Group: nodev1.GroupName, Resource: "runtimeclasses"}
	ingressClasses = schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingressclasses"}
)

// ordered are the plugins in the order of Kubernetes, which is behaviour:
// those that fill in come before those that judge what was filled in.
var ordered = []plugin{
	{name: lifecycle.PluginName, make: newNamespaceLifecycle},
	{name: "LimitRanger", make: newLimitRanger, needs: []schema.GroupResource{limitRanges}},
	{name: "ServiceAccount", make: newServiceAccount},
	{name: "NodeRestriction", make: newNodeRestriction},
	{name: "TaintNodesByCondition", make: newNodeTaint},
	{name: "AlwaysPullImages", make: newAlwaysPull, wanted: func(c Config) bool { return c.AlwaysPullImages }},
	{name: "PodSecurity", make: newPodSecurity},
	{name: "Priority", make: newPriority},
	{name: "DefaultTolerationSeconds", make: newDefaultTolerations},
	{name: "DefaultStorageClass", make: newDefaultStorageClass, needs: []schema.GroupResource{storageClasses}},
	{name: "StorageObjectInUseProtection", make: newInUseProtection},
	{name: "PersistentVolumeClaimResize", make: newClaimResize, needs: []schema.GroupResource{storageClasses}},
	{name: "RuntimeClass", make: newRuntimeClass, needs: []schema.GroupResource{runtimeClasses}},
	{name: "CertificateApproval", make: newCertificateApproval},
	{name: "CertificateSigning", make: newCertificateSigning},
	{name: "CertificateSubjectRestriction", make: newCertificateSubject},
	{name: "DefaultIngressClass", make: newDefaultIngressClass, needs: []schema.GroupResource{ingressClasses}},
	{name: "PodTopologyLabels", make: newTopologyLabels},
	{name: "PodResizeValidator", make: newPodResize},
	{name: "NodeDeclaredFeatureValidator", make: newDeclaredFeatures},
	// What others bring comes after all of our own but quotas.
	{name: "MutatingAdmissionPolicy", make: newMutatingPolicies,
		needs: registrations("mutatingadmissionpolicies", "mutatingadmissionpolicybindings")},
	{name: "MutatingAdmissionWebhook", make: newMutatingWebhooks, needs: registrations("mutatingwebhookconfigurations")},
	{name: "ValidatingAdmissionPolicy", make: newValidatingPolicies,
		needs: registrations("validatingadmissionpolicies", "validatingadmissionpolicybindings")},
	{name: "ValidatingAdmissionWebhook", make: newValidatingWebhooks, needs: registrations("validatingwebhookconfigurations")},
	{name: "ResourceQuota", make: newResourceQuota, needs: []schema.GroupResource{corev1.Resource("resourcequotas")}},
}

func registrations(resources ...string) []schema.GroupResource {
	needs := make([]schema.GroupResource, len(resources))
	for i, resource := range resources {
		needs[i] = schema.GroupResource{Group: admissionregistrationv1.GroupName, Resource: resource}
	}
	return needs
}

// enabled are the plugins of this configuration.
func enabled(config Config) []plugin {
	return slices.DeleteFunc(slices.Clone(ordered), func(p plugin) bool {
		return p.wanted != nil && !p.wanted(config) ||
			config.Served != nil && slices.ContainsFunc(p.needs, func(r schema.GroupResource) bool { return !config.Served(r) })
	})
}

// NewChain builds the chain. It registers informers with config.Informers.
func NewChain(config Config) (admission.Interface, error) {
	if config.Client == nil || config.Informers == nil || config.Authorizer == nil ||
		config.Dynamic == nil || config.Mapper == nil || config.Drained == nil {
		return nil, errors.New("admission needs clients, informers, an authorizer, a mapper and to know when the server is drained")
	}
	registry := admission.NewPlugins()
	var names []string
	for _, p := range enabled(config) {
		names = append(names, p.name)
		registry.Register(p.name, func(io.Reader) (admission.Interface, error) { return p.make(config) })
	}
	none, err := admission.ReadAdmissionConfiguration(names, "", runtime.NewScheme())
	if err != nil {
		return nil, fmt.Errorf("make empty admission configuration: %w", err)
	}
	// The library's own plugins take what they want from this.
	initialize := initializer.New(config.Client, config.Dynamic, config.Informers, config.Authorizer,
		utilfeature.DefaultFeatureGate, nil, config.Drained, config.Mapper)
	chain, err := registry.NewFromPlugins(names, none, initialize, admission.DecoratorFunc(admissionmetrics.WithControllerMetrics))
	if err != nil {
		return nil, fmt.Errorf("build admission chain: %w", err)
	}
	return admissionmetrics.WithStepMetrics(chain), nil
}

// newNamespaceLifecycle refuses writes into namespaces that are missing or
// going, and the deletion of those that the cluster itself lives in.
func newNamespaceLifecycle(Config) (admission.Interface, error) {
	return lifecycle.NewLifecycle(sets.New(metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic))
}
