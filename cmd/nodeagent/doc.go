// Command nodeagent is clusterctl's program on every host: `nodeagent run`
// runs the host's pods, network, service proxy and API load balancer;
// `nodeagent host` is the hand by which clusterctl works on the host. Here are
// flags and wiring only; the parts of `run` are listed in run.go.
package main
