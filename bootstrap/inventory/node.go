package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"clusterctl/hostconfig"
)

// maxShutdown bounds how long a host may take to go down for its pods' sake, in
// seconds.
const maxShutdown = 3600

// overlayNode lets what above says take the place of what below says, setting by
// setting.
func overlayNode(below, above Node) Node {
	above.PodPIDs = cmp.Or(above.PodPIDs, below.PodPIDs)
	if above.Reserved == nil {
		above.Reserved = below.Reserved
	}
	if above.Shutdown == nil {
		above.Shutdown = below.Shutdown
	}
	e, b := &above.Eviction, below.Eviction
	for _, of := range []struct{ above, below *map[string]string }{
		{&e.Hard, &b.Hard}, {&e.Soft, &b.Soft}, {&e.MinimumReclaim, &b.MinimumReclaim},
	} {
		if *of.above == nil {
			*of.above = *of.below
		}
	}
	if e.SoftGraceSeconds == nil {
		e.SoftGraceSeconds = b.SoftGraceSeconds
	}
	e.MaxPodGraceSeconds = cmp.Or(e.MaxPodGraceSeconds, b.MaxPodGraceSeconds)
	e.TransitionSeconds = cmp.Or(e.TransitionSeconds, b.TransitionSeconds)
	i, of := &above.Images, below.Images
	i.CollectAbovePercent = cmp.Or(i.CollectAbovePercent, of.CollectAbovePercent)
	i.CollectBelowPercent = cmp.Or(i.CollectBelowPercent, of.CollectBelowPercent)
	i.MinAgeSeconds = cmp.Or(i.MinAgeSeconds, of.MinAgeSeconds)
	i.MaxUnusedSeconds = cmp.Or(i.MaxUnusedSeconds, of.MaxUnusedSeconds)
	return above
}

// checkNode judges what defaults, a group or a host say of node agents.
func (c *checker) checkNode(path string, node Node) {
	if node.PodPIDs < 0 {
		c.faultAt(path+".podPIDs", "write how many processes a pod may have, or leave it out", "podPIDs is negative")
	}
	for name, text := range node.Reserved {
		at := path + ".reserved." + name
		if !slices.Contains(hostconfig.Reservable, name) {
			c.faultAt(at, suggestion(name, hostconfig.Reservable), "%s cannot be reserved", name)
		} else if q, err := resource.ParseQuantity(text); err != nil || q.Sign() < 0 {
			c.faultAt(at, "write one like 500m, 1Gi or 1000", "reserved %s %q is no quantity", name, text)
		}
	}
	c.checkEviction(path+".eviction", node.Eviction)
	c.checkImages(path+".images", node.Images)
	sum, seen := 0, map[int]bool{}
	for i, grace := range node.Shutdown {
		at := fmt.Sprintf("%s.shutdown[%d]", path, i)
		if grace.Seconds < 0 {
			c.faultAt(at+".seconds", "write a number of seconds", "seconds are negative")
		}
		if grace.Priority < math.MinInt32 || grace.Priority > math.MaxInt32 {
			c.faultAt(at+".priority", fmt.Sprintf("write one from %d to %d", math.MinInt32, math.MaxInt32), "no pod has the priority %d", grace.Priority)
		}
		if seen[grace.Priority] {
			c.faultAt(at+".priority", "give each priority once", "priority %d has a grace already", grace.Priority)
		}
		seen[grace.Priority] = true
		sum += max(grace.Seconds, 0)
	}
	if sum > maxShutdown {
		c.faultAt(path+".shutdown", fmt.Sprintf("keep the sum below %d seconds", maxShutdown), "a shutdown would take %d seconds", sum)
	}
}

func (c *checker) checkEviction(path string, eviction Eviction) {
	for _, key := range []string{"hard", "soft", "minimumReclaim"} {
		amounts := map[string]map[string]string{"hard": eviction.Hard, "soft": eviction.Soft, "minimumReclaim": eviction.MinimumReclaim}[key]
		for signal, text := range amounts {
			at := path + "." + key + "." + signal
			if c.checkSignal(at, signal) && !isAmount(text) {
				c.faultAt(at, "write one like 200Mi or 10%", "%s of %s is neither a quantity nor a percentage: %q", key, signal, text)
			}
		}
	}
	for signal, seconds := range eviction.SoftGraceSeconds {
		at := path + ".softGraceSeconds." + signal
		if c.checkSignal(at, signal) && seconds < 0 {
			c.faultAt(at, "write a number of seconds", "the grace of %s is negative", signal)
		}
	}
	for key, seconds := range map[string]int{"maxPodGraceSeconds": eviction.MaxPodGraceSeconds, "transitionSeconds": eviction.TransitionSeconds} {
		if seconds < 0 {
			c.faultAt(path+"."+key, "write a number of seconds", "%s is negative", key)
		}
	}
}

func (c *checker) checkImages(path string, images Images) {
	for key, percent := range map[string]int{"collectAbovePercent": images.CollectAbovePercent, "collectBelowPercent": images.CollectBelowPercent} {
		if percent < 0 || percent > 100 {
			c.faultAt(path+"."+key, "write a number from 1 to 100", "no disk can be %d percent full", percent)
		}
	}
	for key, seconds := range map[string]int{"minAgeSeconds": images.MinAgeSeconds, "maxUnusedSeconds": images.MaxUnusedSeconds} {
		if seconds < 0 {
			c.faultAt(path+"."+key, "write a number of seconds", "%s is negative", key)
		}
	}
}

func (c *checker) checkSignal(path, signal string) bool {
	known := slices.Contains(hostconfig.EvictionSignals, signal)
	if !known {
		c.faultAt(path, suggestion(signal, hostconfig.EvictionSignals), "unknown eviction signal %q", signal)
	}
	return known
}

// checkSettled judges what only shows once everything that is said of a host has
// been put together.
func (c *checker) checkSettled(path string, h Host) {
	for _, signal := range slices.Sorted(maps.Keys(h.Node.Eviction.Soft)) {
		if _, ok := h.Node.Eviction.SoftGraceSeconds[signal]; !ok && slices.Contains(hostconfig.EvictionSignals, signal) {
			c.faultAt(path+".node.eviction.soft", "add softGraceSeconds: with "+signal+": and how many seconds it may be undershot",
				"nothing says how long %s may undershoot the soft threshold %s", h.Name, signal)
		}
	}
	images := hostconfig.Images(h.Node.Images).OrDefaults()
	if above, below := images.CollectAbovePercent, images.CollectBelowPercent; below >= above {
		c.faultAt(path+".node.images.collectBelowPercent", "keep collectBelowPercent below collectAbovePercent",
			"%s would collect images above %d percent until no more than %d percent are in use", h.Name, above, below)
	}
	if least, most := images.MinAgeSeconds, images.MaxUnusedSeconds; most > 0 && most <= least {
		c.faultAt(path+".node.images.maxUnusedSeconds", "keep maxUnusedSeconds above minAgeSeconds",
			"%s would spare images for %d seconds, and remove them after %d", h.Name, least, most)
	}
}

// isAmount says whether text is a quantity that is not negative, or a share of
// the whole.
func isAmount(text string) bool {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		return err == nil && percent >= 0 && percent <= 100
	}
	q, err := resource.ParseQuantity(text)
	return err == nil && q.Sign() >= 0
}

// Apply puts the settings into the node agent's configuration.
func (n Node) Apply(config *hostconfig.NodeAgent) {
	config.PodPIDs, config.Reserved = int64(n.PodPIDs), n.Reserved
	config.Eviction, config.Images = hostconfig.Eviction(n.Eviction), hostconfig.Images(n.Images)
	for _, grace := range n.Shutdown {
		config.Shutdown = append(config.Shutdown, hostconfig.ShutdownGrace{Priority: int32(grace.Priority), Seconds: grace.Seconds})
	}
}
