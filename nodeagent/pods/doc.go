// Package pods makes the containers of this host what the pods bound to it
// say they should be.
//
// One worker per pod repeats a single step whenever anything about its pod
// changes: observe (runtime.Pod), decide (plan.go), describe (status.go), act
// (operations.go). Deciding and describing are pure functions of a Situation
// and are tested with tables. Acting starts operations in the background, one
// per key, whose ends are changes in turn; so nothing ever waits in a worker,
// and a deleted pod is noticed while its image is being pulled.
//
// What is precious lives in the API and in the runtime: after a restart of
// the agent, running containers are found by their labels and go on.
package pods
