// Package etcd runs one member of the cluster's etcd: the real server, embedded.
// It starts and stops the member; who the members are is decided by
// clusterctl's membership operations (bootstrap), never here.
package etcd
