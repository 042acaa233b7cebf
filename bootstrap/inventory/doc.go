// Package inventory reads the file that describes a cluster: what it is called,
// how its networks lie, and which hosts have which roles.
//
// Parse is strict and patient: it refuses what it does not know, and it reports
// every fault of a file at once, each with its line and what to write instead.
// document.go is the file as people write it (and the source of
// docs/inventory.schema.json), decode.go reads YAML into it and remembers the
// lines, expand.go turns ranges, groups and defaults into Hosts, check.go and
// checkhosts.go judge.
//
// Nothing here talks to a host or knows how a role is realised.
package inventory
