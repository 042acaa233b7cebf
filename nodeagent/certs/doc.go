// Package certs keeps the node agent's two certificates alive: the client
// pair "node" and the serving pair "node-serving". Both are renewed through
// CertificateSigningRequests when 70 to 90 % of their life have passed, and
// replaced on disk so that a crash at any moment leaves a pair that fits.
//
// clusterctl makes the first pairs; CA keys never come near a node.
package certs
