// Package certcheck compares keys and certificates with what a
// hostop.Certificate asks for. Both sides of the wire use it: the hand to check
// and verify a pair on a host, bootstrap/pki to fingerprint what it issues. It
// reads PEM and judges; it neither issues nor writes anything.
package certcheck
