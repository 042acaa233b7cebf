// Package volumeexpand says who makes a volume grow whose claim asks for more:
// the external resizer of its driver, since no driver is built in. Growing the
// file system afterwards is the node agent's.
package volumeexpand
