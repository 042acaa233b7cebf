package hostconfig

// Version is clusterctl's own, set by the linker; every program of one build
// has the same, and LibDir/<Version> is where it is installed.
var Version = "dev"
