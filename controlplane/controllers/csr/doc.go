// Package csr reads CertificateSigningRequests and says what the well-known
// signers demand of them. It decides nothing about who may have a certificate
// (csrapprove) and signs nothing (csrsign).
package csr
