// Package remote puts the hand (`nodeagent host serve`) on a host and speaks
// hostop's wire with it.
//
// Connect takes one round trip to see what a host is and whether it has the
// right hand already, uploads one where it has not, and starts it as root. What
// is asked of the hand is the caller's business; how the connection is made is
// that of bootstrap/ssh.
package remote
