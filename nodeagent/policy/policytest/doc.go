// Package policytest is for tests: it says which connections network policies
// allow, makes up policies, and tries connections in network namespaces.
//
//   - model.go: Allowed, the API's words read one by one; Connections
//   - random.go: Pod and Policies
//   - sockets.go: servers and clients, for threads in network namespaces
//
// Nothing of the product imports it, and it knows nothing of how policies are
// enforced.
package policytest
