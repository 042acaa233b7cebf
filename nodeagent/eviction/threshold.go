package eviction

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"clusterctl/hostconfig"
)

// Signal is what is measured.
type Signal string

// The signals. PodsMemory is what is left of what all pods may have together: it has
// the hard threshold of Memory, so that pods cannot use up what is kept from them.
// Upstream's containerfs signals are not here: what containers write lies on the disk
// of images or on the node's, whose thresholds those copy (Layout).
const (
	Memory      Signal = "memory.available"
	PodsMemory  Signal = "allocatableMemory.available"
	NodeDisk    Signal = "nodefs.available"
	NodeInodes  Signal = "nodefs.inodesFree"
	ImageDisk   Signal = "imagefs.available"
	ImageInodes Signal = "imagefs.inodesFree"
	PIDs        Signal = "pid.available"
)

// order is in which signals are acted upon: memory first, it kills fastest.
var order = []Signal{Memory, PodsMemory, NodeDisk, NodeInodes, ImageDisk, ImageInodes, PIDs}

func (s Signal) condition() v1.NodeConditionType {
	switch s {
	case Memory, PodsMemory:
		return v1.NodeMemoryPressure
	case PIDs:
		return v1.NodePIDPressure
	}
	return v1.NodeDiskPressure
}

// resource is what runs short.
func (s Signal) resource() v1.ResourceName {
	switch s {
	case Memory, PodsMemory:
		return v1.ResourceMemory
	case NodeInodes, ImageInodes:
		return "inodes"
	case PIDs:
		return "pids"
	}
	return v1.ResourceEphemeralStorage
}

// Amount is a quantity, or a share of the capacity.
type Amount struct {
	Quantity resource.Quantity
	Percent  float64 // 0: Quantity counts
}

func (a Amount) of(capacity int64) int64 {
	if a.Percent > 0 {
		return int64(float64(capacity) * a.Percent / 100)
	}
	return a.Quantity.Value()
}

// String is the quantity that an amount of a capacity comes to.
func (a Amount) quantity(capacity int64) *resource.Quantity {
	if a.Percent > 0 {
		return resource.NewQuantity(a.of(capacity), resource.BinarySI)
	}
	q := a.Quantity.DeepCopy()
	return &q
}

// Threshold is how little of something may be left.
type Threshold struct {
	Signal  Signal
	Least   Amount
	Soft    bool
	Grace   time.Duration // how long a soft one may be undershot
	Reclaim Amount        // what has to be free beyond it before all is well again
}

// Settings are when and how pods are evicted.
type Settings struct {
	Thresholds []Threshold
	Transition time.Duration // how long a pressure is reported after it has gone
	PodGrace   time.Duration // what a pod gets at most when a soft threshold ends it
}

// Defaults are the hard thresholds of Kubernetes, which count where none are set.
var Defaults = map[string]string{
	string(Memory): "100Mi", string(NodeDisk): "10%", string(NodeInodes): "5%", string(ImageDisk): "15%", string(ImageInodes): "5%",
}

// DefaultTransitionSeconds is how long a pressure is reported after it has gone, if
// nothing else is set.
const DefaultTransitionSeconds = 300

// Parse reads the configuration; what it leaves out is as Kubernetes has it.
func Parse(c hostconfig.Eviction) (Settings, error) {
	settings := Settings{
		Transition: time.Duration(cmp.Or(c.TransitionSeconds, DefaultTransitionSeconds)) * time.Second,
		PodGrace:   time.Duration(c.MaxPodGraceSeconds) * time.Second,
	}
	hard := c.Hard
	if hard == nil {
		hard = Defaults
	}
	for _, set := range []struct {
		soft bool
		of   map[string]string
	}{{false, hard}, {true, c.Soft}} {
		for _, name := range slices.Sorted(maps.Keys(set.of)) {
			t := Threshold{Signal: Signal(name), Soft: set.soft}
			if !slices.Contains(hostconfig.EvictionSignals, name) {
				return settings, fmt.Errorf("eviction threshold %q: no such signal", name)
			}
			var err error
			if t.Least, err = parseAmount(set.of[name]); err != nil {
				return settings, fmt.Errorf("eviction threshold %s: %w", name, err)
			}
			if set.of[name] == "0" || set.of[name] == "0%" {
				continue // switched off
			}
			if set.soft {
				grace, ok := c.SoftGraceSeconds[name]
				if !ok {
					return settings, fmt.Errorf("soft eviction threshold %s: softGraceSeconds must say how long it may be undershot", name)
				}
				t.Grace = time.Duration(grace) * time.Second
			}
			if text, ok := c.MinimumReclaim[name]; ok {
				if t.Reclaim, err = parseAmount(text); err != nil {
					return settings, fmt.Errorf("minimum to reclaim for %s: %w", name, err)
				}
			}
			settings.Thresholds = append(settings.Thresholds, t)
			if t.Signal == Memory && !t.Soft {
				t.Signal = PodsMemory
				settings.Thresholds = append(settings.Thresholds, t)
			}
		}
	}
	return settings, nil
}

// Held is what hard thresholds keep from pods of a capacity: they would be evicted
// for using it.
func (s Settings) Held(signal Signal, capacity int64) int64 {
	for _, t := range s.Thresholds {
		if t.Signal == signal && !t.Soft {
			return t.Least.of(capacity)
		}
	}
	return 0
}

func parseAmount(text string) (Amount, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || percent < 0 || percent > 100 {
			return Amount{}, fmt.Errorf("%q is no share of the whole", text)
		}
		return Amount{Percent: percent}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return Amount{}, fmt.Errorf("parse %q: %w", text, err)
	}
	if q.Sign() < 0 {
		return Amount{}, fmt.Errorf("%q is negative", text)
	}
	return Amount{Quantity: q}, nil
}

// Observation is how much there is of something, and how much is left.
type Observation struct {
	Available, Capacity int64
}

// Observations are what could be measured.
type Observations map[Signal]Observation

// undershot says that the threshold is met; with reclaim, that what has to be
// reclaimed is not free yet.
func (o Observations) undershot(t Threshold, reclaim bool) bool {
	now, ok := o[t.Signal]
	if !ok {
		return false
	}
	least := t.Least.of(now.Capacity)
	if reclaim {
		least += t.Reclaim.of(now.Capacity)
	}
	return now.Available < least
}

// quantity is how much is left, as messages spell it.
func (o Observations) quantity(s Signal) *resource.Quantity {
	if s == NodeInodes || s == ImageInodes || s == PIDs {
		return resource.NewQuantity(o[s].Available, resource.DecimalSI)
	}
	return resource.NewQuantity(o[s].Available, resource.BinarySI)
}
