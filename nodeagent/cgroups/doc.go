// Package cgroups places pods in the cgroup tree: kubepods for guaranteed
// pods, kubepods/burstable and kubepods/besteffort below it, a group per pod
// with the sums of its limits. Version 1 and 2 of cgroups, the cgroupfs and
// the systemd driver.
//
// The groups of containers are the runtime's; resources.go only says what
// the runtime shall set on them.
package cgroups
