// Package certificates defines the kind of the group certificates.k8s.io:
// CertificateSigningRequest with its approval. Who may approve and sign is
// admission's to decide; approving and signing themselves are a controller's
// work.
package certificates

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind { return []api.Kind{api.Define(signingRequest)} }
