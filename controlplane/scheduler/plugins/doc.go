// Package plugins holds what decides where a pod may run and where it runs
// best: one file a plugin, and the default profile.
package plugins
