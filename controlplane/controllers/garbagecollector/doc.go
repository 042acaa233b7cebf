// Package garbagecollector deletes objects whose owners are gone, and sees to
// the foreground and orphan policies of deletions:
//
//	graph.go     who owns whom, from what the informers show (pure)
//	decide.go    what is to be done about one object (pure)
//	kinds.go     which resources there are, from discovery
//	monitors.go  an informer for each of them, feeding the graph
//	collect.go   does what has been decided, on fresh data only
//
// The graph may be behind the API server. So nothing is deleted because the
// graph does not know an owner: each is asked for first. What is written
// carries the UID and resource version it was decided on.
package garbagecollector
