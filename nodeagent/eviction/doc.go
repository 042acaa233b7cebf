// Package eviction keeps the host alive when memory, disk or processes run
// short: it measures, tells which pressure there is, and picks pods to end, those
// first that use more than they asked for. Pods that outgrow their own limits
// of local storage are ended whatever the host has left.
//
// What all pods may use together is watched like the host itself. A pod goes for what
// it has on the disk that ran short (Layout), and images are freed first where that
// helps.
//
// It decides; nodeagent/pods measures pods and ends them (Host).
package eviction
