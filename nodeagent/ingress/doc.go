// Package ingress serves networking.k8s.io/v1 Ingresses on the hosts that the
// inventory names: HTTP on port 80, HTTPS and HTTP/2 on port 443.
//
// It is a part of the node agent, since what it needs most is there already:
// Services and EndpointSlices are watched for the service proxy, Secrets are
// watched one by one as for pods. Where it is off nothing of it runs.
//
// table.go says where a request goes and build.go derives that from the
// cluster's objects: both are pure. proxy.go carries requests, certificates.go
// answers TLS, ingress.go keeps them up to date and drains connections at the
// end, status.go tells the API where Ingresses are served.
//
// Requests go straight to endpoints, not through a service's cluster address.
// How the node reaches pods is no matter of this package, nor is what a host's
// firewall lets in.
package ingress
