package linearizability

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// state is what an object is to its clients. Each write brings a value that no
// other does, so that equal states are the same version.
type state struct {
	exists bool
	main   string // set by whole writes
	side   string // set by patches, which keep main; emptied by whole writes
}

type operation int

const (
	create        operation = iota
	put                     // update whatever is there
	swap                    // update the version that was read
	patch                   // set side only
	remove                  // delete whatever is there
	removeVersion           // delete the version that was read
	read                    // by whichever way
)

func (o operation) String() string {
	return [...]string{"create", "put", "swap", "patch", "remove", "removeVersion", "read"}[o]
}

type outcome int

const (
	done     outcome = iota
	missing          // there is no such object
	exists           // there is one already
	conflict         // it is another version
	unknown          // no answer: it has happened, will happen, or never does
)

func (o outcome) String() string {
	return [...]string{"done", "missing", "exists", "conflict", "unknown"}[o]
}

// input and output are what porcupine calls a call and its return.
type input struct {
	key    string
	kind   operation
	value  string
	expect state // of swap and removeVersion
}

type output struct {
	outcome outcome
	state   state // what a read saw, and what a write left behind; not of removals
}

// apply is the state after a call that finds now, and how it ends then.
func apply(now state, in input) (state, outcome) {
	if in.kind == create {
		if now.exists {
			return now, exists
		}
		return state{exists: true, main: in.value}, done
	}
	if in.kind == read {
		return now, done
	}
	if !now.exists {
		return now, missing
	}
	if (in.kind == swap || in.kind == removeVersion) && now != in.expect {
		return now, conflict
	}
	switch in.kind {
	case patch:
		return state{exists: true, main: now.main, side: in.value}, done
	case remove, removeVersion:
		return state{}, done
	}
	return state{exists: true, main: in.value}, done
}

// model is one object. A call without an answer never returns, so that it may
// take its place after everything else, where it is as if it had not been.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range history {
			key := o.Input.(input).key
			byKey[key] = append(byKey[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: func(before, call, answer any) (bool, any) {
		now, in, out := before.(state), call.(input), answer.(output)
		after, how := apply(now, in)
		switch {
		case out.outcome == unknown:
			return true, after
		case out.outcome == conflict && (in.kind == put || in.kind == patch):
			// The server gives up after some tries; nothing has happened.
			return true, now
		case out.outcome != how:
			return false, now
		case how == done && in.kind != remove && in.kind != removeVersion:
			return out.state == after, after
		}
		return true, after
	},
	DescribeOperation: func(call, answer any) string {
		return fmt.Sprintf("%+v -> %+v", call, answer)
	},
	DescribeState: func(s any) string { return fmt.Sprintf("%+v", s) },
}
