// Package stack makes goroutines' stacks large early. A request is served by three
// goroutines: that of its HTTP/2 stream, that of the filter which limits its time,
// and that of a change. Each calls deep, and the runtime would double its stack up
// to four times on the way, with more frames to move each time: a fourteenth of the
// API server's CPU time. So each makes the room it will need in one step, while
// there is little on its stack. The runtime takes away what stays unused.
package stack
