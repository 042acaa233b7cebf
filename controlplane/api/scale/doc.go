// Package scale serves the scale subresource, autoscaling/v1 Scale, over any
// kind that keeps a number of replicas.
package scale
