// Command coredns is CoreDNS with the plugins that a cluster's DNS uses and no
// others.
package main
