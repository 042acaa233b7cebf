// Package templates holds the files of a host that are text: systemd units,
// containerd's configuration, CRI-O's drop-in, and the manifests of add-ons. They
// are embedded,
// and rendered for a host by pure functions. What goes where, and when, is
// bootstrap/plan's business.
package templates
