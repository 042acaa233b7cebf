// Package disruption tells in the status of each PodDisruptionBudget how many
// of its pods may be evicted now. The API server's eviction counts them down
// and notes who was evicted; this controller raises the number again once it
// has seen those pods go.
package disruption
