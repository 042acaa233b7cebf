// Command bench measures an API server beside stock kube-apiserver: the same
// work through the same client, each on a fresh etcd of the same program and
// settings, in turns. It prints Markdown tables of medians and ratios (`make
// bench-api`). What it measures is the server's process alone: its CPU time, its
// memory, and how long the client waited.
package main
