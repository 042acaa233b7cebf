// Command run judges a cluster by Kubernetes' own conformance suite:
//
//	go run ./run -focus sig-api-machinery
//
// It builds the suite (k8s.io/kubernetes/test/e2e), ginkgo and kubectl, makes
// the images that the tests ask for from Go modules and Debian packages, boots
// a lab (or takes a cluster that runs), loads the images, runs the tests in
// parallel and those that must be alone after them, and keeps what came of each
// test, so that parts of the suite can be run one at a time. With -labels it
// runs tests of the same suite that are beyond conformance.
//
// What it does not do: build clusterctl (`make build` does), or bring up
// clusters in any way that users cannot.
package main
