// Package csrclean deletes CertificateSigningRequests that nobody needs any
// more.
package csrclean
