// Command scheduler measures our scheduler beside the stock kube-scheduler (`make
// bench-scheduler`): the same pods on the same nodes of the same API server and
// etcd, which are ours, in turns. Nodes are objects only: nothing runs there, and
// no agent takes part.
//
// Three compete: stock, and ours alone, each a process of its own that reaches the
// API server over TLS, while our controllers are a third; and ours as clusters have
// it, in one process with API server and controllers. Nodes send heartbeats beside
// all of them. Processes of their own work twice on a workload: on pods that were there
// before they began (the drain: nothing but binding, so this tells the rate), and, as
// the one in the API server's process does, on pods that come as fast as they can be
// made (the stream: it tells latencies, and the CPU time of every process that takes
// part).
package main
