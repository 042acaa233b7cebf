// Package plugins finds the plugins of this host: programs that put a socket
// into the registry folder, as Kubernetes' plugin registration has it. What a
// kind of plugin is good for is its handler's business.
package plugins
