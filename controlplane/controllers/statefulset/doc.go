// Package statefulset keeps the pods of each StatefulSet: one for each ordinal,
// with a name and claims that outlive it. What is to be done next is a pure
// decision (decide.go); the rest carries it out, keeps the claims' owners as the
// retention policy wants (claims.go) and reports status. Former templates are
// kept by package history.
package statefulset
