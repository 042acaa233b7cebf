// Package endpointslicemirroring mirrors Endpoints that users write for services
// without a selector into EndpointSlices, which is where service proxies look.
// What slices should be there is a pure function (mirror.go); endpoints of
// services with a selector belong to packages endpoints and endpointslice.
package endpointslicemirroring
