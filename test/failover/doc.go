// Package failover kills the process that leads, and times until the cluster
// works again: three control planes (API server, scheduler and controllers in one
// process each) on loopback, with one etcd member that stays. It has nothing to
// say about the death of an etcd member or of a host; test/e2e does.
package failover
