// Package clusterroles fills in the rules of ClusterRoles that aggregate
// others by label.
package clusterroles
