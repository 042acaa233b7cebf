package nodelifecycle

import "time"

// How fast nodes of a zone may be marked for eviction, by how many of the zone
// are not ready: when many fail at once, the fault is more likely in the
// network between them and us than in each of them. A zone without any ready
// node is taken for lost, though, and emptied.
const (
	normalPace = 10 * time.Second // one node every so often
	slowPace   = 100 * time.Second
	unhealthy  = 0.55 // from this share of failed nodes on, slowly
	smallZone  = 50   // in zones no larger than this, not at all
)

// pace is the time between two evictions in a zone; 0 forbids any.
func pace(ready, notReady int) time.Duration {
	total := ready + notReady
	switch {
	case ready > 0 && notReady > 2 && float64(notReady)/float64(total) >= unhealthy:
		if total <= smallZone {
			return 0
		}
		return slowPace
	}
	return normalPace
}

// pacer remembers when each zone last had an eviction.
type pacer struct{ last map[string]time.Time }

// allow reports whether one more node of zone may be marked now, and counts it
// if so.
func (p *pacer) allow(zone string, between time.Duration, now time.Time) bool {
	if last, ok := p.last[zone]; between == 0 || ok && now.Sub(last) < between {
		return false
	}
	if p.last == nil {
		p.last = map[string]time.Time{}
	}
	p.last[zone] = now
	return true
}
