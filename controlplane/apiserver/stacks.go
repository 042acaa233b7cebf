package apiserver

import (
	"context"
	"net/http"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"clusterctl/controlplane/stack"
)

// roomyFilters are the library's filters, on a stack that suffices.
func roomyFilters(handler http.Handler, config *genericapiserver.Config) http.Handler {
	next := genericapiserver.DefaultBuildHandlerChain(handler, config)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stack.Shallow()
		next.ServeHTTP(w, r)
	})
}

// roomyAuthenticator is the first of the second goroutine's filters that is ours.
type roomyAuthenticator struct{ authenticator.Request }

// AuthenticateRequest implements authenticator.Request.
func (a roomyAuthenticator) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	// A watch needs less, and lives long.
	if info, ok := request.RequestInfoFrom(r.Context()); !ok || info.Verb != "watch" {
		stack.Deep()
	}
	return a.Request.AuthenticateRequest(r)
}

// roomyAdmission is among the first of ours that the third goroutine calls.
type roomyAdmission struct{}

var _ admission.MutationInterface = roomyAdmission{}

// Handles implements admission.Interface.
func (roomyAdmission) Handles(admission.Operation) bool { return true }

// Admit implements admission.MutationInterface. It has no opinion.
func (roomyAdmission) Admit(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	stack.Deep()
	return nil
}
