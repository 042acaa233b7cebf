// Command controlplane runs what a control-plane or etcd host of a cluster
// needs: an etcd member, and the API server with scheduler and controllers in
// one process. Each part can run alone. Here are flags and wiring only.
package main
