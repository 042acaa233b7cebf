// Package discovery holds the kinds of discovery.k8s.io: EndpointSlice.
package discovery
