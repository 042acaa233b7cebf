// Package host starts the servers that benchmarks measure (an etcd member, an API
// server) as processes of their own with keys and ports, and reads their CPU time
// and memory. What is done to them is each benchmark's own.
package host
