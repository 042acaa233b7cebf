package hostop

import (
	"encoding/json"
	"time"
)

// The wire: clusterctl starts `nodeagent host serve` over SSH (through sudo
// where needed) and keeps the session. It writes Requests to standard input
// and reads Responses from standard output, each one line of JSON. Before any
// Request the hand says that it is there: a Response with ID 0, Done, and a
// Hello as its Result; Requests count from 1. A Request
// with BodySize > 0 is followed by that many raw bytes. Requests are handled
// one at a time in order; each is answered by any number of Responses with an
// Event and exactly one with Done. Standard error is for people. When standard
// input ends the hand stops what it does at the next safe point and exits.
//
// An empty line is a sign of life. A hand that hears nothing for SilenceLimit
// takes its caller for dead, as if its input had ended: a workstation that lost
// its network must not hold a host's lock.

// Request asks the hand for one thing.
type Request struct {
	ID       int             `json:"id"`
	Method   Method          `json:"method"`
	Ops      Ops             `json:"ops,omitempty"`    // check, apply
	Params   json.RawMessage `json:"params,omitempty"` // the method's …Params
	BodySize int64           `json:"bodySize,omitempty"`
}

// Response answers a Request.
type Response struct {
	ID     int             `json:"id"`
	Event  *Event          `json:"event,omitempty"`
	Done   bool            `json:"done,omitempty"`
	Error  string          `json:"error,omitempty"`  // with Done: why the request failed
	Result json.RawMessage `json:"result,omitempty"` // with Done: the method's …Result
}

// Hello is the hand's first word.
type Hello struct {
	Protocol int    `json:"protocol"` // Protocol
	Version  string `json:"version"`  // of clusterctl
	PID      int    `json:"pid"`
}

// SilenceLimit is how long a hand waits for any byte; the other side sends an
// empty line several times within it.
const SilenceLimit = time.Minute

// Protocol counts incompatible changes of the wire.
const Protocol = 1

// Method names what a Request asks for.
type Method string

const (
	MethodFacts       Method = "facts"       // -> Facts
	MethodCheck       Method = "check"       // Ops; one Event each, in-place or differs; changes nothing
	MethodApply       Method = "apply"       // Ops in order; stops at the first failure
	MethodHave        Method = "have"        // []string of blob digests -> []string of those missing
	MethodPut         Method = "put"         // PutParams and a body: stores a blob, verified, for Blob and Image
	MethodImportImage Method = "importImage" // a body: an uncompressed OCI or docker archive -> []string of image names
	MethodAuthorities Method = "authorities" // -> map[string][]byte of AuthorityDir, empty where there is none; secret
	MethodEncryption  Method = "encryption"  // -> []byte, the encryption keys, empty where there are none; secret
	MethodAdmin       Method = "admin"       // -> []byte, the admin kubeconfig; secret; control planes only
	MethodListen      Method = "listen"      // ListenParams: opens the ports until the next request that is not a dial -> []string of those taken, "tcp 6443"
	MethodDial        Method = "dial"        // DialParams -> map[string]string of address to error
	MethodEtcd        Method = "etcd"        // -> EtcdStatus, from a host with an etcd client pair
	MethodLock        Method = "lock"        // LockParams: takes the run lock for as long as the session lasts
	MethodJournal     Method = "journal"     // JournalParams -> string
	MethodReset       Method = "reset"       // leaves the host as it was; Events tell what goes
)

// PutParams names the blob that a body is.
type PutParams struct {
	Digest string `json:"digest"`
}

// ListenParams asks for listeners on ports of every address.
type ListenParams struct {
	TCP []int `json:"tcp"`
	UDP []int `json:"udp,omitempty"` // answers each datagram with itself
}

// DialParams asks to connect to each address, with one bound on them all.
type DialParams struct {
	TCP           []string `json:"tcp"`
	UDP           []string `json:"udp,omitempty"` // sends a datagram and waits for its echo
	TimeoutMillis int      `json:"timeoutMillis"`
}

// LockParams says who takes the lock; a refusal names the holder.
type LockParams struct {
	Holder string `json:"holder"` // user@workstation pid, command
}

// JournalParams asks for the last lines of a unit's journal.
type JournalParams struct {
	Unit  string `json:"unit"`
	Lines int    `json:"lines"`
}

// EtcdStatus is the cluster as one member sees it.
type EtcdStatus struct {
	Members []EtcdMemberStatus `json:"members"`
}

// EtcdMemberStatus is one member.
type EtcdMemberStatus struct {
	ID       string `json:"id"` // hexadecimal
	Name     string `json:"name"`
	PeerURL  string `json:"peerURL"`
	Learner  bool   `json:"learner"`
	Leader   bool   `json:"leader"`
	Healthy  bool   `json:"healthy"`
	Version  string `json:"version"`
	DBSize   int64  `json:"dbSize"` // bytes
	Revision int64  `json:"revision"`
	Error    string `json:"error,omitempty"`
}
