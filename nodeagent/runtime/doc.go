// Package runtime is the node agent's view of the container runtime: the CRI
// connection, what runs (Pod, Sandbox, Container) and the stream of changes.
//
// It reads and names things, and ends what the runtime itself has lost
// (strays.go). What to run is decided in nodeagent/pods; image pulls live in
// nodeagent/images.
package runtime
