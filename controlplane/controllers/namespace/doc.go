// Package namespace empties namespaces that are being deleted, of every kind
// that discovery knows, and lets them go when nothing is left:
//
//	namespace.go   the order of things, and the finalizer
//	content.go     deletes and counts what is in a namespace
//	conditions.go  tells on the Namespace what is in the way
package namespace
