// Package bundle is a folder of builders, not of code that the product runs:
// each folder with a go.mod pins one upstream program (containerd, runc, the
// CNI plugins, CoreDNS), pause is our own, ociarchive writes images without
// any image tool, and pack builds, compresses and lists them all for
// bundle/payload, which embeds the result.
package bundle
