// Package footprint lets a program of ours take less memory while it has nothing
// to do. It is a leaf: it knows nothing of what the program is for.
package footprint
