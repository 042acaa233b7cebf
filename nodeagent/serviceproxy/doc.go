// Package serviceproxy makes services reachable from a node and from its
// pods: the kernel rewrites packets to a service's addresses so that they go
// to one of its endpoints.
//
// What lives here:
//
//   - proxy.go: Run and Remove, when to do what
//   - model.go: what each port of each service leads to, a pure function of
//     the cluster's services and endpoint slices
//   - rules.go: the model as iptables rules, pure as well
//   - apply.go: giving the kernel those rules that changed, in one step each
//   - conntrack.go: forgetting UDP flows to endpoints that have gone
//   - health.go: answering load balancers that ask for local endpoints
//
// Ports of pods on the host (hostPort) are the portmap plugin's business, and
// how packets reach pods on other nodes is package network's. Only IPv4.
package serviceproxy
