package cronjob

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
)

var base = time.Date(2026, 3, 28, 12, 0, 30, 0, time.UTC)

func testCron(change func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick", Namespace: "ns", UID: "cron", CreationTimestamp: metav1.NewTime(base)},
		Spec:       batchv1.CronJobSpec{Schedule: "*/5 * * * *", ConcurrencyPolicy: batchv1.AllowConcurrent},
	}
	if change != nil {
		change(cj)
	}
	return cj
}

func TestDue(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*batchv1.CronJob)
		after  time.Duration
		want   time.Duration // after base; -1 for none
		many   bool
	}{
		"not yet":          {nil, 4 * time.Minute, -1, false},
		"first":            {nil, 5 * time.Minute, 4*time.Minute + 30*time.Second, false},
		"only the last":    {nil, 12 * time.Minute, 9*time.Minute + 30*time.Second, false},
		"a year of misses": {nil, 365 * 24 * time.Hour, 365*24*time.Hour - 30*time.Second, true},
		"made already": {func(cj *batchv1.CronJob) {
			cj.Status.LastScheduleTime = &metav1.Time{Time: base.Add(9*time.Minute + 30*time.Second)}
		}, 12 * time.Minute, -1, false},
		"too late": {func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = ptr.To[int64](60) }, 12 * time.Minute, -1, false},
		// Berlin turns its clocks forward in this night: 3:30 is 1:30 UTC.
		"time zone": {func(cj *batchv1.CronJob) {
			cj.Spec.Schedule, cj.Spec.TimeZone = "30 3 * * *", ptr.To("Europe/Berlin")
		}, 24 * time.Hour, 13*time.Hour + 29*time.Minute + 30*time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			cj := testCron(test.change)
			schedule, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			at, many := due(cj, schedule, base.Add(test.after))
			if (test.want < 0) != at.IsZero() || test.want >= 0 && !at.Equal(base.Add(test.want)) || many != test.many {
				t.Errorf("due at %v (%v), many %v", at, at.Sub(base), many)
			}
		})
	}
	if _, err := parse(testCron(func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Nowhere/Else") })); err == nil {
		t.Error("an unknown time zone was read")
	}
}

func TestLatestIsWhatAWalkFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"* * * * *", "*/7 * * * *", "0 3 * * *", "*/5 8-9 * * 1", "0 0 1 * *", "@every 90s"}).Draw(t, "schedule")
		schedule, err := cron.ParseStandard(text)
		if err != nil {
			t.Fatal(err)
		}
		since := base.Add(time.Duration(rapid.IntRange(0, 1e6).Draw(t, "since")) * time.Second)
		now := since.Add(time.Duration(rapid.IntRange(0, 1e6).Draw(t, "elapsed")) * time.Second)
		want := time.Time{}
		for at := schedule.Next(since); !at.After(now); at = schedule.Next(at) {
			want = at
		}
		got, missed := latest(schedule, since, now)
		if text == "@every 90s" { // its times follow from where the search began
			if got.After(now) || got.IsZero() != want.IsZero() {
				t.Fatalf("got %v, now %v", got, now)
			}
			return
		}
		if !got.Equal(want) || want.IsZero() != (missed == 0) {
			t.Fatalf("%s: got %v (%d missed), want %v", text, got, missed, want)
		}
	})
}

func testJob(cj *batchv1.CronJob, name string, age time.Duration, condition batchv1.JobConditionType) *batchv1.Job {
	job := newJob(cj, base)
	job.Name, job.UID = name, types.UID(name)
	job.Status.StartTime = &metav1.Time{Time: base.Add(-age)}
	if condition != "" {
		job.Status.Conditions = []batchv1.JobCondition{{Type: condition, Status: corev1.ConditionTrue}}
		job.Status.CompletionTime = job.Status.StartTime
	}
	return job
}

func TestPolicies(t *testing.T) {
	due := jobName(testCron(nil), base.Add(4*time.Minute+30*time.Second))
	for policy, want := range map[batchv1.ConcurrencyPolicy][]string{
		batchv1.AllowConcurrent:   {"running", due},
		batchv1.ForbidConcurrent:  {"running"},
		batchv1.ReplaceConcurrent: {due},
	} {
		t.Run(string(policy), func(t *testing.T) {
			cj := testCron(func(cj *batchv1.CronJob) {
				cj.Spec.ConcurrencyPolicy = policy
				cj.Spec.SuccessfulJobsHistoryLimit, cj.Spec.FailedJobsHistoryLimit = ptr.To[int32](1), ptr.To[int32](0)
				cj.Status.Active = []corev1.ObjectReference{{Name: "running", UID: "running"}, {Name: "done-2", UID: "done-2"}, {Name: "lost", UID: "lost"}}
			})
			objects := []runtime.Object{cj, testJob(cj, "running", time.Minute, ""), testJob(cj, "failed", time.Hour, batchv1.JobFailed)}
			for i := range 3 {
				objects = append(objects, testJob(cj, fmt.Sprint("done-", i), time.Duration(10-i)*time.Hour, batchv1.JobComplete))
			}
			f := controllertest.New(t, objects...)
			c, err := newController(f.Env, func() time.Time { return base.Add(6 * time.Minute) })
			if err != nil {
				t.Fatal(err)
			}
			f.Start(t, c)
			ctx := context.Background()
			controllertest.Eventually(t, fmt.Sprint("jobs ", want), func() bool {
				now, err := f.Client.BatchV1().CronJobs("ns").Get(ctx, "tick", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				jobs, err := f.Client.BatchV1().Jobs("ns").List(ctx, metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				left := map[string]bool{}
				for _, job := range jobs.Items {
					left[job.Name] = true
				}
				if len(now.Status.Active) != len(want) || len(left) != len(want)+1 || !left["done-2"] {
					return false
				}
				for _, name := range want {
					if !left[name] {
						return false
					}
				}
				return now.Status.LastSuccessfulTime != nil && now.Status.LastSuccessfulTime.Time.Equal(base.Add(-8*time.Hour))
			})
		})
	}
}
