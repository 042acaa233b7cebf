// Package endpoints keeps the Endpoints objects of services with a selector,
// for clients that have not moved to EndpointSlices yet. The node agents do
// not read them.
package endpoints
