// Package encryption keeps the keys that Secrets are encrypted with in etcd:
// what a control plane's file of them says (Keys), and the rotation, which
// brings a new key to a running cluster. At every moment of it, and wherever it
// is interrupted, every API server can read what any other writes.
//
// It knows nothing of SSH: whoever rotates says how files are written and API
// servers reached (Cluster). What a server does with the file stands in
// controlplane/storage.
package encryption
