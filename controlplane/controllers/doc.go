// Package controllers runs every controller of the control plane, but for the
// scheduler: one set of informers, one table of what runs. What a controller
// is made of stands in package reconcile; each of the other packages below is
// one controller (csr, history and scales are what some of them share). They talk to
// the API server only, and import nothing else of the control plane but how
// package quota measures objects and how package authn signs tokens.
package controllers
