// Package leader runs a function in one process of the cluster at a time, by
// holding a Lease object. It knows nothing of what it runs.
package leader
