// Package networking defines the kinds of networking.k8s.io: Ingress and
// IngressClass, which controllers of others act on, NetworkPolicy, and those
// that service addresses are kept in: ServiceCIDR, the ranges, and IPAddress,
// one object for each address in use. Allocation itself stands in package
// core, with services.
package networking
