// Command scheduler measures our scheduler beside the stock kube-scheduler (`make
// bench-scheduler`): the same pods on the same nodes of the same API server and
// etcd, which are ours, in turns. Nodes are objects only: nothing runs there, and
// no agent takes part.
//
// Three compete: stock, and ours alone, each a process of its own that reaches the
// API server over TLS; and ours as clusters have it, in one process with API server
// and controllers. Each works twice on a workload: on pods that were there before
// it began (the drain: nothing but binding, so this tells the rate), and on pods
// that come as fast as they can be made (the stream: it tells latencies, and the
// CPU time of every process that takes part).
package main
