// Package proportional gives Deployments replicas by the size of the cluster,
// as their annotations ask (hostconfig.AnnotationNodesPerReplica and
// AnnotationCoresPerReplica): the cluster's DNS server above all. Use by load is
// the horizontalpodautoscaler's business.
//
// Replicas are added as nodes become ready, so that there is a node for each, and
// taken away as nodes leave the cluster. A node that is cordoned or dead is
// expected back: fewer replicas meanwhile would help nobody.
package proportional
