// Package host is the remote hand of clusterctl: what `nodeagent host serve`
// does on a host. It reads hostop.Requests, checks and applies operations one
// by one, and answers with events.
//
// Every operation is checked before it is applied, applied so that being killed
// at any moment leaves a state that the next run repairs, and works below a
// root directory that tests set. Order and purpose are the planner's business
// (bootstrap/plan); how pods and networks run is that of the other packages
// below nodeagent, of which only the Remove functions are called here, by a
// reset.
package host
