// Package netnstest makes network namespaces for tests and benchmarks of what
// the node agent does to packets, connects them, and runs code inside them.
// Nothing of the product imports it. What else stands in a namespace is its
// users' own.
package netnstest
