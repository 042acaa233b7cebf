// Package servicecidr looks after what services' addresses come from. One part
// marks ServiceCIDRs as ready and keeps each until no address needs it. The
// other compares services with the IPAddress objects that hold their addresses,
// makes those that are missing and removes those that nothing uses.
//
// Addresses are taken and given back by the API server when it writes a service
// (controlplane/api/core), which also repairs node ports, since only it reads
// where they are kept.
package servicecidr
