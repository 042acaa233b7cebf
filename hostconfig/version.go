package hostconfig

// Version is clusterctl's own, set by the linker; every program of one build
// has the same, and LibDir/<Version> is where it is installed.
var Version = "dev"

// KubernetesVersion is that of the API which the control plane serves and node
// agents keep to. The Makefile has kubectl's part of clusterctl tell it too.
const KubernetesVersion = "v1.36.3"
