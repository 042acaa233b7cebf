package cronjob

import (
	"fmt"
	"time"
	_ "time/tzdata" // hosts may have no time zones

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

// manyMissed is how many missed times are worth a warning.
const manyMissed = 100

// parse reads a cron job's schedule in its time zone.
func parse(cj *batchv1.CronJob) (cron.Schedule, error) {
	text := cj.Spec.Schedule
	if cj.Spec.TimeZone != nil {
		if _, err := time.LoadLocation(*cj.Spec.TimeZone); err != nil {
			return nil, fmt.Errorf("read time zone: %w", err)
		}
		text = "TZ=" + *cj.Spec.TimeZone + " " + text
	}
	schedule, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("read schedule: %w", err)
	}
	return schedule, nil
}

// latest returns the last scheduled time after since and not after now, zero if
// there is none, and about how many times lie between.
func latest(schedule cron.Schedule, since, now time.Time) (last time.Time, missed int) {
	first := schedule.Next(since)
	if first.IsZero() || first.After(now) {
		return time.Time{}, 0
	}
	second := schedule.Next(first)
	if second.IsZero() || second.After(now) {
		return first, 1
	}
	// Look back from now, further each time: a walk from since could take
	// millions of steps.
	step := max(second.Sub(first), time.Second)
	missed = int(now.Sub(first)/step) + 1
	for window := step; ; window *= 2 {
		from := now.Add(-window)
		if from.Before(since) {
			from = since
		}
		for t := schedule.Next(from); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
			last = t
		}
		if !last.IsZero() || from.Equal(since) {
			return last, missed
		}
	}
}

// due returns the time for which a job is to be made now, zero if there is
// none, and whether suspiciously many were missed.
func due(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time) (at time.Time, many bool) {
	since := cj.CreationTimestamp.Time
	if cj.Status.LastScheduleTime != nil {
		since = cj.Status.LastScheduleTime.Time
	}
	if limit := cj.Spec.StartingDeadlineSeconds; limit != nil {
		if earliest := now.Add(-time.Duration(*limit) * time.Second); earliest.After(since) {
			since = earliest
		}
	}
	at, missed := latest(schedule, since, now)
	return at, missed > manyMissed
}

// jobName is the name of the job of one scheduled time.
func jobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}
