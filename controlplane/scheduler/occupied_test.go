package scheduler

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"pgregory.net/rapid"
)

// What the independent checker knows of what pods take on a node besides
// processors: its ports and its places for volumes, and of what keeps them off.

// volumes is how many claims there are to draw from, each bound to a volume of
// its own.
const volumes = 5

// setVolumes tells the picture of the volumes, and of how many of them fit on
// each node; that is what it returns.
func setVolumes(t *rapid.T, s *scheduler, nodes int) map[string]int {
	storage := s.picture.Storage()
	for i := range volumes {
		name := fmt.Sprint("v", i)
		storage.SetVolume(&v1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1.PersistentVolumeSpec{PersistentVolumeSource: v1.PersistentVolumeSource{
				CSI: &v1.CSIPersistentVolumeSource{Driver: "disks", VolumeHandle: "disk " + name},
			}},
		})
		storage.SetClaim(&v1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{volume.AnnBindCompleted: "yes"}},
			Spec:       v1.PersistentVolumeClaimSpec{VolumeName: name},
		})
	}
	limits := map[string]int{}
	for i := range nodes {
		name := fmt.Sprint("n", i)
		driver := storagev1.CSINodeDriver{Name: "disks", NodeID: name}
		if most := rapid.IntRange(0, volumes).Draw(t, "places"); most < volumes {
			driver.Allocatable = &storagev1.VolumeNodeResources{Count: new(int32(most))}
			limits[name] = most
		}
		storage.SetCSINode(&storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{driver}}})
	}
	return limits
}

// drawOccupation has a pod ask for ports of its node, for volumes, or for
// neither, and bear some taints.
func drawOccupation(t *rapid.T, p *v1.Pod) {
	for range max(0, rapid.IntRange(-2, 2).Draw(t, "ports")) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, v1.ContainerPort{
			ContainerPort: 80,
			HostPort:      rapid.SampledFrom([]int32{0, 80, 81}).Draw(t, "port"),
			Protocol:      rapid.SampledFrom([]v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP}).Draw(t, "protocol"),
			HostIP:        rapid.SampledFrom([]string{"", "0.0.0.0", "10.0.0.1", "10.0.0.2"}).Draw(t, "ip"),
		})
	}
	for i := range max(0, rapid.IntRange(-2, 3).Draw(t, "volumes")) {
		claim := fmt.Sprint("v", rapid.IntRange(0, volumes-1).Draw(t, "volume"))
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: fmt.Sprint("volume", i), VolumeSource: v1.VolumeSource{
			PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
	}
	for _, key := range []string{"dedicated", "broken"} {
		if rapid.Bool().Draw(t, "tolerates") {
			p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Key: key, Operator: v1.TolerationOpExists})
		}
	}
}

func drawTaints(t *rapid.T) (taints []v1.Taint) {
	for _, key := range []string{"dedicated", "broken"} {
		if rapid.IntRange(0, 5).Draw(t, "taint") == 0 {
			effect := rapid.SampledFrom([]v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule})
			taints = append(taints, v1.Taint{Key: key, Effect: effect.Draw(t, "effect")})
		}
	}
	return taints
}

// occupied says what of a node a pod cannot have; empty: nothing.
func (w *world) occupied(pod *v1.Pod, node *v1.Node) string {
	for _, taint := range node.Spec.Taints {
		borne := taint.Effect == v1.TaintEffectPreferNoSchedule
		for _, toleration := range pod.Spec.Tolerations {
			borne = borne || toleration.Key == taint.Key
		}
		if !borne {
			return "taint " + taint.Key
		}
	}
	everywhere := func(ip string) bool { return ip == "" || ip == "0.0.0.0" }
	used := map[string]bool{}
	for _, other := range w.on(node.Name) {
		for _, theirs := range other.Spec.Containers[0].Ports {
			for _, ours := range pod.Spec.Containers[0].Ports {
				if ours.HostPort != 0 && ours.HostPort == theirs.HostPort && ours.Protocol == theirs.Protocol &&
					(ours.HostIP == theirs.HostIP || everywhere(ours.HostIP) || everywhere(theirs.HostIP)) {
					return "port of " + other.Name
				}
			}
		}
		for _, v := range other.Spec.Volumes {
			used[v.PersistentVolumeClaim.ClaimName] = true
		}
	}
	for _, v := range pod.Spec.Volumes {
		used[v.PersistentVolumeClaim.ClaimName] = true
	}
	if most, ok := w.places[node.Name]; ok && len(pod.Spec.Volumes) > 0 && len(used) > most {
		return "too many volumes"
	}
	return ""
}
