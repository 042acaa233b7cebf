// Package storage keeps API objects in etcd: the one etcd client of an API
// server, its health, and the store of every resource. Which resources there
// are and where each lies under the prefix is said by controlplane/api; this
// package knows bytes, keys and caches only.
package storage
