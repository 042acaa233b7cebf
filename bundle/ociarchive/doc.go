// Package ociarchive writes container images as OCI archives, without any
// image tool: one uncompressed layer, deterministic to the byte, so that an
// image's digest changes only when its content does.
package ociarchive
