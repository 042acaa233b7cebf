// Package queue holds the pods that wait for a node, in three places: active
// (ready to be tried, best first), backing off (tried lately; of these, those
// that an event could have helped are tried early when none is active), and
// parked (did not fit; tried again only for an event that could help, or after a
// while as a safety net). A pod that awaits others, which were asked to leave for
// it, is tried early when the last of them is gone, and for no other that goes.
//
// A Queue is safe for concurrent use. Time comes in through its clock.
package queue
