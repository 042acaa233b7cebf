// Package reconcile is the one way a controller is written here. It holds what
// all of them share and no controller's own business:
//
//   - Environment: clients, shared informers, indexes and event recorders.
//   - Watch: a typed event handler on a shared informer.
//   - Loop: a work queue of keys, its workers, back-off, logging and metrics.
//   - Expectations: writes that the informers have not shown yet.
//   - Claim: adoption and release of objects through controller references.
//   - the questions every controller asks of a pod (pod.go).
//
// A controller is a package beside this one with a New that takes an
// Environment, registers its watches and returns a Controller. It reads from
// listers only, writes through the client, and assumes that its cache may be
// older than its own last write.
package reconcile
