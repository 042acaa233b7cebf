// Package e2e brings clusters up on lab hosts with the built programs, uses
// them as a person would, and breaks them. It needs Linux, root, and
// `make build`; everything it starts it removes again.
package e2e
