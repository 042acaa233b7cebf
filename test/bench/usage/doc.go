// Package usage reads what processes use of CPU and memory, for benchmarks. Whose
// processes these are, and when to look, is each benchmark's own.
package usage
