// Command pack builds the payload: it compiles every program in components.go
// for one architecture, makes images of those that run in pods, compresses
// them, and writes them by digest, with their manifest, below bundle/payload.
// What has not changed since the last run is not built again.
package main
