// Package apiserver assembles the API server: the kinds of controlplane/api on
// the handlers of k8s.io/apiserver, over the stores of controlplane/storage,
// behind the authentication, authorization and admission of their packages. It
// serves HTTPS to everyone and an in-memory listener to what runs in the same
// process; both pass the same chain of filters.
//
// Behind the filters is a chain of three servers, on one port and one etcd
// client: the aggregator (extension API servers, by APIServices), the kinds of
// our own, and custom resources with their definitions. A request goes from one
// to the next until one serves it.
//
// It also keeps in place what a cluster needs to begin with: the system
// namespaces, the default service and its endpoints, the default policy, the
// APIServices of what is served here. What a kind is stands in
// controlplane/api; controllers that act on objects stand in
// controlplane/controllers.
package apiserver
