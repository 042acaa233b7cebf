// Package nodettl tells nodes by an annotation how long they may keep what
// they have read of Secrets and ConfigMaps: the longer, the larger the cluster
// is. Agents that watch, as ours do, need no such hint; others may.
package nodettl
