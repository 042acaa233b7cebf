// Package rbac decides requests by Roles, ClusterRoles and their bindings, and
// keeps the default policy in place.
//
// Authorizer answers from informers through an index by subject: a decision
// looks at the bindings of the request's user and groups only. The default
// policy is data, in policy/*.txt; EnsurePolicy reconciles it with the cluster.
//
// The kinds themselves (validation, guard against privilege escalation) live
// in controlplane/api/rbac.
package rbac
