package plugins

import (
	"strings"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// ImageLocality prefers nodes that have a pod's images already. An image that
// few nodes have counts less, so that they are not all filled up. How many
// have it may be counted a little late: it only shades a preference.
type ImageLocality struct{}

func (ImageLocality) Name() string { return "ImageLocality" }
func (ImageLocality) Local() bool  { return true }

// Images smaller than the first make no difference; larger than the second, no
// more of it. Per container.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

func (ImageLocality) PreScore(pod *picture.Pod, cluster *picture.Picture, _ []*picture.Node) framework.Score {
	spec := &pod.Object.Spec
	names := make([]string, 0, len(spec.Containers)+len(spec.InitContainers))
	for i := range spec.InitContainers {
		names = append(names, normalizedImage(spec.InitContainers[i].Image))
	}
	for i := range spec.Containers {
		names = append(names, normalizedImage(spec.Containers[i].Image))
	}
	containers := int64(len(names))
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			names = append(names, normalizedImage(image.Reference))
		}
	}
	holders := make(map[string]int64, len(names))
	for _, name := range names {
		if count := cluster.Holders(name); count > 0 {
			holders[name] = int64(count)
		}
	}
	if len(holders) == 0 {
		return nil
	}
	all := int64(len(cluster.Nodes()))
	least, most := int64(smallImage), int64(largeImage)*containers
	return func(n *picture.Node) int64 {
		var sum int64
		for _, name := range names {
			sum += n.Images[name] * holders[name] / all
		}
		return (min(max(sum, least), most) - least) * framework.MaxScore / (most - least)
	}
}

// normalizedImage adds the tag that a name without one stands for.
func normalizedImage(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
