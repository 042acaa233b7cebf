// Package integration tests the API server over a real etcd, both in the test's
// process: what clients can do with the kinds, and what the server does with
// clients. It uses loopback only, and needs neither root nor a lab. What needs
// hosts is tested in test/e2e.
package integration
