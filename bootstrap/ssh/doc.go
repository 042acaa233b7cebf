// Package ssh opens SSH connections the way OpenSSH's client would, with the
// inventory's settings on top: keys, agent, certificates, ssh_config,
// known_hosts, jump hosts, keep-alives, and sudo for users that are not root.
//
// A Dialer holds what several connections share (decrypted keys, the agent,
// jump connections, passwords typed once). A Client is one connection; it runs
// commands and opens connections from the host's side. What runs on the host
// is the business of bootstrap/remote.
//
// A host key is never accepted unseen: it is in known_hosts, or pinned by its
// fingerprint, or, where the policy says accept-new and nothing at all is known
// of the host, written to known_hosts on first sight.
package ssh
