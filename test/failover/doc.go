// Package failover kills the process that leads, and times until the cluster
// works again; and it stops API servers under clients that watch. Three control
// planes (API server, scheduler and controllers in one process each) run on
// loopback, with one etcd member that stays. It has nothing to say about the
// death of an etcd member or of a host; test/e2e does.
package failover
