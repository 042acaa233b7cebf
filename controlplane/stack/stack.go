package stack

// Bytes of room: what the filters before the second goroutine need, and what the
// two others need.
const (
	shallow = 6 << 10
	deep    = 20 << 10
)

// Shallow makes room for the filters of a request.
func Shallow() { makeShallow(false) }

// Deep makes room for the handler of a request, down to etcd.
func Deep() { makeDeep(false) }

// The two functions below do nothing but be called: their frames are as large as
// the room, whether it is used or not. It never is, which spares clearing it.

//go:noinline
func makeShallow(used bool) byte {
	if !used {
		return 0
	}
	var room [shallow]byte
	return last(room[:])
}

//go:noinline
func makeDeep(used bool) byte {
	if !used {
		return 0
	}
	var room [deep]byte
	return last(room[:])
}

//go:noinline
func last(room []byte) byte { return room[len(room)-1] }
