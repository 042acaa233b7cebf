// Package objects gives the agent the ConfigMaps and Secrets that its pods
// refer to, and no others: each is watched by name while a pod uses it.
package objects
