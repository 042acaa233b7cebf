package admission

import (
	"context"
	"errors"
	"fmt"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/component-base/metrics/legacyregistry"
	podsecurityadmission "k8s.io/pod-security-admission/admission"
	podsecurityconfig "k8s.io/pod-security-admission/admission/api"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity holds pods to the Pod Security Standards: to what their
// namespace's labels say, and where they say nothing, to the cluster's level.
// By default that is a warning below baseline and no more.
type podSecurity struct {
	*admission.Handler
	judge podsecurityadmission.Admission
}

var _ admission.ValidationInterface = (*podSecurity)(nil)

// podSecurityMetrics are registered once in a process, however many servers it
// has.
var podSecurityMetrics = sync.OnceValue(func() metrics.Recorder {
	recorder := metrics.NewPrometheusRecorder(podsecurity.GetAPIVersion())
	recorder.MustRegister(legacyregistry.MustRegister)
	return recorder
})

func newPodSecurity(config Config) (admission.Interface, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("gather checks of the pod security standards: %w", err)
	}
	settings := &podsecurityconfig.PodSecurityConfiguration{Defaults: podsecurityconfig.PodSecurityDefaults{
		Enforce: string(podsecurity.LevelPrivileged), EnforceVersion: podsecurity.VersionLatest,
		Audit: string(podsecurity.LevelPrivileged), AuditVersion: podsecurity.VersionLatest,
		Warn: string(podsecurity.LevelBaseline), WarnVersion: podsecurity.VersionLatest,
	}}
	if level := config.PodSecurity; level != "" {
		settings.Defaults.Enforce, settings.Defaults.Audit, settings.Defaults.Warn = level, level, level
		// The cluster's own pods are what the nodes are made of.
		settings.Exemptions.Namespaces = []string{metav1.NamespaceSystem}
	}
	namespaces := config.Informers.Core().V1().Namespaces()
	p := &podSecurity{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		judge: podsecurityadmission.Admission{
			Configuration:    settings,
			Evaluator:        evaluator,
			Metrics:          podSecurityMetrics(),
			PodSpecExtractor: podsecurityadmission.DefaultPodSpecExtractor{},
			NamespaceGetter:  podsecurityadmission.NamespaceGetterFromListerAndClient(namespaces.Lister(), config.Client),
			// Asked for only when the labels of a namespace become stricter.
			PodLister: podsecurityadmission.PodListerFromClient(config.Client),
		},
	}
	if err := p.judge.CompleteConfiguration(); err != nil {
		return nil, fmt.Errorf("complete pod security configuration: %w", err)
	}
	if err := p.judge.ValidateConfiguration(); err != nil {
		return nil, fmt.Errorf("check pod security configuration: %w", err)
	}
	p.SetReadyFunc(namespaces.Informer().HasSynced)
	return p, nil
}

func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	resource := a.GetResource().GroupResource()
	if resource != corev1.Resource("namespaces") && !p.judge.PodSpecExtractor.HasPodSpec(resource) {
		return nil
	}
	answer := p.judge.Validate(ctx, securityAttributes{a})
	for _, text := range answer.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	for key, value := range answer.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podsecurity.AuditAnnotationPrefix+key, value)
	}
	if answer.Allowed {
		return nil
	}
	//lint:ignore ST1005 Users know the message so.
	refused := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity"))
	var status *apierrors.StatusError
	if result := answer.Result; result != nil && errors.As(refused, &status) {
		if result.Message != "" {
			status.ErrStatus.Message = result.Message
		}
		if result.Reason != "" {
			status.ErrStatus.Reason = result.Reason
		}
		if result.Details != nil {
			status.ErrStatus.Details = result.Details
		}
		if result.Code != 0 {
			status.ErrStatus.Code = result.Code
		}
	}
	return refused
}

// securityAttributes shows attributes the way the library asks for them.
type securityAttributes struct{ admission.Attributes }

var _ podsecurity.Attributes = securityAttributes{}

func (a securityAttributes) GetObject() (runtime.Object, error) { return a.Attributes.GetObject(), nil }

func (a securityAttributes) GetOldObject() (runtime.Object, error) {
	return a.Attributes.GetOldObject(), nil
}

func (a securityAttributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}

func (a securityAttributes) GetUserName() string { return a.GetUserInfo().GetName() }
