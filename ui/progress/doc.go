// Package progress is the live view of an `up` on a terminal: a line for each
// host with what it is at and for how long, and one for the whole.
package progress
