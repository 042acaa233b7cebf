// Package preflight judges hosts before anything is changed on them: what they
// are (Judge) and which of them have to reach which (Matrix). It is pure: the
// facts were gathered, and the ports tried, by bootstrap/execute. All findings
// come at once, and each can be ignored by its name.
package preflight
