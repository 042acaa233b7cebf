package admission

import (
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
)

// newMutatingWebhooks asks webhooks of others to change what is written.
func newMutatingWebhooks(config Config) (admission.Interface, error) {
	p, err := mutating.NewMutatingWebhook(nil)
	if err != nil {
		return nil, err
	}
	p.SetServiceResolver(config.Services)
	return p, nil
}

// newValidatingWebhooks asks webhooks of others whether they allow a write.
func newValidatingWebhooks(config Config) (admission.Interface, error) {
	p, err := validating.NewValidatingAdmissionWebhook(nil)
	if err != nil {
		return nil, err
	}
	p.SetServiceResolver(config.Services)
	return p, nil
}
