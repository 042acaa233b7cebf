package admission

import (
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/openapi"
)

// reviews are questions, not objects: no policy judges them, so that none can
// lock everybody out.
var reviews = []schema.GroupResource{
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
}

// newValidatingPolicies refuses what the expressions of policies refuse.
func newValidatingPolicies(Config) (admission.Interface, error) {
	p, err := validating.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	p.SetExcludedAdmissionResources(reviews)
	return p, nil
}

// newMutatingPolicies changes objects as the expressions of policies say.
func newMutatingPolicies(config Config) (admission.Interface, error) {
	p, err := mutating.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	p.SetExcludedAdmissionResources(reviews)
	return mutatingPolicies{p, config.Informers.Admissionregistration().V1().MutatingAdmissionPolicies().Lister()}, nil
}

// mutatingPolicies keeps the library from asking for the list of OpenAPI
// documents every few seconds while there is no policy that needs them: for each
// list, every extension API server is asked for its own.
type mutatingPolicies struct {
	*mutating.Plugin
	policies listers.MutatingAdmissionPolicyLister
}

// SetExternalKubeClientSet hands the library a client that tells of the
// documents there were at first as long as there are no policies: the first
// objects that a policy changes come before the next list.
func (p mutatingPolicies) SetExternalKubeClientSet(client kubernetes.Interface) {
	p.Plugin.SetExternalKubeClientSet(policyClient{client, p.policies})
}

type policyClient struct {
	kubernetes.Interface
	policies listers.MutatingAdmissionPolicyLister
}

func (c policyClient) Discovery() discovery.DiscoveryInterface {
	return policyDiscovery{c.Interface.Discovery(), c.policies}
}

type policyDiscovery struct {
	discovery.DiscoveryInterface
	policies listers.MutatingAdmissionPolicyLister
}

func (d policyDiscovery) OpenAPIV3() openapi.Client {
	return &policyDocuments{Client: d.DiscoveryInterface.OpenAPIV3(), policies: d.policies}
}

// policyDocuments is asked by one goroutine.
type policyDocuments struct {
	openapi.Client
	policies listers.MutatingAdmissionPolicyLister
	last     map[string]openapi.GroupVersion
}

// Paths implements openapi.Client. The address of a document that has changed
// since leads to the document as it is.
func (d *policyDocuments) Paths() (map[string]openapi.GroupVersion, error) {
	policies, err := d.policies.List(labels.Everything())
	if err == nil && (len(policies) > 0 || d.last == nil) {
		d.last, err = d.Client.Paths()
	}
	return d.last, err
}
