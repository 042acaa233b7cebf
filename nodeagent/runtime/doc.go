// Package runtime is the node agent's view of the container runtime: the CRI
// connection, what runs (Pod, Sandbox, Container) and the stream of changes.
//
// It reads and names things; it decides nothing. Decisions live in
// nodeagent/pods, image pulls in nodeagent/images.
package runtime
