// Package helm installs, upgrades, rolls back and removes a chart with Helm 4, as
// a library, on a control plane of this repository in processes of its own. It is
// a module of its own, so that Helm's dependencies stay out of the product; Helm
// 4.2 is the newest that is built on the libraries of Kubernetes 1.36.
package helm
