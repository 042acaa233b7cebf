// Package bootstrapsigner signs the ConfigMap cluster-info of kube-public with
// the bootstrap tokens that may sign, so that who knows one of them can trust
// the cluster's address and CA before it knows the cluster. Who joins by
// clusterctl needs no such thing, so the ConfigMap is an operator's to make;
// while there is none, tokens are not even watched.
package bootstrapsigner
