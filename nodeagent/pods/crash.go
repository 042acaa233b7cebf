package pods

import "time"

// How long a container that keeps exiting is left alone: the delay doubles
// from first to longest, and is forgotten when nothing happened for a while.
const (
	crashFirst   = 10 * time.Second
	crashLongest = 5 * time.Minute
	crashForget  = 10 * time.Minute
)

// Crash counts how often a container had to be started again. The zero Crash
// allows a first restart at once.
type Crash struct {
	Delay time.Duration // to wait after the container's end
	Last  time.Time     // when it was last started again
}

// crash is how often container c had to be started again. Where the agent was
// restarted since, the count of its restarts tells.
func (s *Situation) crash(name string) Crash {
	if h := s.History[name]; h != nil && h.Crash != (Crash{}) {
		return h.Crash
	}
	latest := s.Actual.Latest(name)
	if latest == nil || latest.Attempt == 0 {
		return Crash{}
	}
	delay := crashFirst
	for n := uint32(1); n < latest.Attempt && delay < crashLongest; n++ {
		delay *= 2
	}
	return Crash{Delay: min(delay, crashLongest), Last: latest.StartedAt}
}

// Until is when a container that ended at finished may be started again.
func (c Crash) Until(finished time.Time) time.Time {
	if c.Delay == 0 || finished.Sub(c.Last) > crashForget {
		return finished
	}
	return finished.Add(c.Delay)
}

// Restarted is the state after a container that ended at finished was
// started again at now.
func (c Crash) Restarted(finished, now time.Time) Crash {
	delay := min(max(2*c.Delay, crashFirst), crashLongest)
	if finished.Sub(c.Last) > crashForget {
		delay = crashFirst
	}
	return Crash{Delay: delay, Last: now}
}
