// Package apilb is the load balancer through which everything on a host
// reaches the API servers: it listens on 127.0.0.1 and passes connections on,
// byte by byte, to a control plane that answers.
//
// Here live the choice of a server, the probes that find a dead one, the passing
// on, and the list of servers, which follows the cluster's (learn.go). TLS is none
// of its business: clients check the servers' certificates themselves, which name
// 127.0.0.1.
package apilb
