// Package endpointslice keeps the EndpointSlices of services with a selector,
// on the reconciler that Kubernetes publishes for it. Which pods belong to a
// slice, and how slices are filled, is the library's; waking it is ours.
package endpointslice
