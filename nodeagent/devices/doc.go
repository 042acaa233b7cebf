// Package devices gives pods the devices of this host: those of claims, which
// DRA drivers prepare (claims.go, drivers.go), and those of device plugins,
// which are counted as extended resources of the node (plugins.go,
// allocation.go). It says how devices that pods have are (health.go), and tells programs of this host who has which
// (podresources.go). It says what a container needs to have its devices; giving it
// to the runtime is package pods' business, and finding plugins by their
// sockets that of package plugins.
package devices
