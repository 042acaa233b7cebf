// Package payload is what clusterctl carries for the hosts: binaries and
// images, compressed and content-addressed, embedded at build time. bundle/
// builds them; nothing here knows how.
package payload
