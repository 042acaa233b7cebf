package policytypes

import (
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	apply "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 1
	// manager owns the status that is written, by the name that Kubernetes
	// gives it.
	manager = "validatingadmissionpolicy-status"
)

// New makes the controller. Its keys are policies; types come from the API's
// own documents, which are read only when there is a policy to check.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	discovery := env.Client.Discovery()
	kinds := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery))
	checker := &validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: discovery},
		RestMapper:     kinds,
	}
	policies := env.Informers.Admissionregistration().V1().ValidatingAdmissionPolicies()
	loop := reconcile.NewLoop(env, "policytypes", workers, func(ctx context.Context, name string) error {
		policy, err := policies.Lister().Get(name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil || policy.Generation <= policy.Status.ObservedGeneration {
			return err
		}
		kinds.Reset() // custom resources may have come
		status := apply.ValidatingAdmissionPolicyStatus().
			WithObservedGeneration(policy.Generation).
			WithTypeChecking(apply.TypeChecking().WithExpressionWarnings(warnings(checker, policy)...))
		_, err = env.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().ApplyStatus(ctx,
			apply.ValidatingAdmissionPolicy(name).WithStatus(status), metav1.ApplyOptions{FieldManager: manager, Force: true})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("write what was found in the policy's expressions: %w", err)
		}
		return nil
	})
	err := reconcile.Watch(env, policies.Informer(), reconcile.Handlers[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		Add:    func(policy *admissionregistrationv1.ValidatingAdmissionPolicy) { loop.AddObject(policy) },
		Update: func(_, policy *admissionregistrationv1.ValidatingAdmissionPolicy) { loop.AddObject(policy) },
	})
	if err != nil {
		return nil, err
	}
	return loop, nil
}

func warnings(checker *validating.TypeChecker, policy *admissionregistrationv1.ValidatingAdmissionPolicy) []*apply.ExpressionWarningApplyConfiguration {
	var found []*apply.ExpressionWarningApplyConfiguration
	for _, w := range checker.Check(policy) {
		found = append(found, apply.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	return found
}
