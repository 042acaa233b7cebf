package hostop

// Event is one line that the hand streams back while it works.
type Event struct {
	Op     int    `json:"op"`               // index into the request's operations; -1: the request as a whole
	State  State  `json:"state"`            //
	Detail string `json:"detail,omitempty"` // what differs, what is being waited for
	Error  string `json:"error,omitempty"`  // with StateFailed
}

// State is where an operation stands.
type State string

const (
	StateInPlace State = "in-place" // check or apply: already so, nothing touched
	StateDiffers State = "differs"  // check: apply would change something
	StateRunning State = "running"  // apply: begun, or progress of a long one
	StateChanged State = "changed"  // apply: made so
	StateFailed  State = "failed"
)
