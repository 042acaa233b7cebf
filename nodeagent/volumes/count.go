package volumes

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// counted is a volume of a pod.
type counted struct {
	plugin  string
	inPlace bool
}

// wants notes that a pod is to have a volume, of a plugin; a kind that the agent
// does not support has none.
func (m *Manager) wants(uid types.UID, volume, plugin string) {
	if plugin == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counted[uid] == nil {
		m.counted[uid] = map[string]counted{}
	}
	m.counted[uid][volume] = counted{plugin, m.counted[uid][volume].inPlace}
}

// has notes that a volume which the pod is to have is in place.
func (m *Manager) has(uid types.UID, volume string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.counted[uid][volume]; ok {
		m.counted[uid][volume] = counted{c.plugin, true}
	}
}

// Count is how many volumes the node's pods are to have, and how many of them are
// in place, by plugin as the kubelet names it: those whose claims are bound.
func (m *Manager) Count() (wanted, inPlace map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted, inPlace = map[string]int{}, map[string]int{}
	for _, volumes := range m.counted {
		for _, c := range volumes {
			wanted[c.plugin]++
			if c.inPlace {
				inPlace[c.plugin]++
			}
		}
	}
	return wanted, inPlace
}

const pluginPrefix = "kubernetes.io/"

// plugin is the kubelet's name for what prepares a pod's volume; empty: that is
// for its claim to tell, or nothing does.
func plugin(source *v1.VolumeSource) string {
	switch {
	case source.EmptyDir != nil:
		return pluginPrefix + "empty-dir"
	case source.HostPath != nil:
		return pluginPrefix + "host-path"
	case source.ConfigMap != nil:
		return pluginPrefix + "configmap"
	case source.Secret != nil:
		return pluginPrefix + "secret"
	case source.DownwardAPI != nil:
		return pluginPrefix + "downward-api"
	case source.Projected != nil:
		return pluginPrefix + "projected"
	case source.Image != nil:
		return pluginPrefix + "image"
	case source.CSI != nil:
		return pluginPrefix + "csi:" + source.CSI.Driver
	}
	return ""
}

// pluginOf is the same for what a claim is bound to.
func pluginOf(pv *v1.PersistentVolume) string {
	switch source := &pv.Spec.PersistentVolumeSource; {
	case source.HostPath != nil:
		return pluginPrefix + "host-path"
	case source.Local != nil:
		return pluginPrefix + "local-volume"
	case source.CSI != nil:
		return pluginPrefix + "csi:" + source.CSI.Driver
	}
	return ""
}
