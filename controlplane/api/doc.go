// Package api is the resource registry: what every kind of the Kubernetes API
// is, said once. A kind's whole story (defaults, preparation, validation,
// status, selectable fields, table columns, subresources) stands in one file
// of the package of its group, controlplane/api/<group>/<kind>.go, as a
// Definition; this package turns definitions into the stores that
// k8s.io/apiserver serves.
//
// The registry hubs on the published v1 types: there are no internal types and
// no conversion on the hot path. Each type is registered under its external
// version first and under the group's internal version second (scheme.go), so
// that the library's machinery takes it as it is.
//
// Packages below may import this one, k8s.io libraries, and each other's
// validation (apps validates pod templates with core); they never import
// controlplane/apiserver, which assembles them.
package api
