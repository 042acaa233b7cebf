// Package hostop is the vocabulary between clusterctl and a host: the typed
// operations that bootstrap/plan puts into steps and that nodeagent/host
// carries out, the facts a host reports, and the events it streams back.
//
// An operation describes a state ("this file has this content"), never an
// action, so that every one can be checked without changing anything, applied
// any number of times, and stopped at any moment. How that is done lives in
// nodeagent/host; when and in which order lives in bootstrap/plan. Here is
// only data: everything marshals to JSON, and nothing imports anything of this
// module but hostconfig.
package hostop
