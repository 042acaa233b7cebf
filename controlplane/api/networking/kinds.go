package networking

import "clusterctl/controlplane/api"

// Kinds lists the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{
		serviceCIDRKind(), ipAddressKind(),
		api.Define(ingress), api.Define(ingressClass), api.Define(networkPolicy),
	}
}
