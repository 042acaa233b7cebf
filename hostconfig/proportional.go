package hostconfig

// Annotations of a Deployment that has to grow with the cluster: so many nodes,
// and so many cores, have one replica. Who takes both off sets the number of
// replicas again.
const (
	AnnotationNodesPerReplica = "clusterctl.io/nodes-per-replica"
	AnnotationCoresPerReplica = "clusterctl.io/cores-per-replica"
)
