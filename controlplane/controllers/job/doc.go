// Package job runs pods to completion for each Job, indexed or not. Every pod
// carries a finalizer until it has been counted in the job's status: first its
// UID is written there, then the finalizer goes, then the count goes up, so
// that no crash in between loses a pod or counts it twice (track.go). What a
// job's pods mean is judged in judge.go and policy.go, what is to be done about
// them in manage.go; both are pure.
package job
