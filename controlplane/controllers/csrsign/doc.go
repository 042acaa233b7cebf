// Package csrsign signs approved CertificateSigningRequests of the three
// kubernetes.io signers whose certificates the API server and its clients
// trust, with the cluster's CA. It approves nothing.
package csrsign
