// Command clusterctl brings a cluster up from an inventory of hosts and is
// then the terminal it is run from. This package is flags and wiring only: the
// work is done in bootstrap, lab, ui and, for kubectl's verbs, k8s.io/kubectl.
package main
