// Package staticpods reads the pods that a folder of manifests asks this host
// for, without any API. It watches the folder and hands over what stands in it;
// nodeagent/pods runs them and shows them to the API as mirror pods.
package staticpods
