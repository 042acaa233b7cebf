// Command sample is the program that `make demo` and the end-to-end test
// deploy: an HTTP server that says which pod and node answered, and what the
// ConfigMap mounted at /etc/sample says.
package main
