package cronjob

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
)

// told waits for an event of a reason.
func told(t *testing.T, f *controllertest.Fixture, reason, message string) {
	t.Helper()
	controllertest.Eventually(t, "the event "+reason, func() bool {
		list, err := f.Client.CoreV1().Events("ns").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Reason == reason {
				if e.Message != message {
					t.Fatalf("%s says %q, want %q", reason, e.Message, message)
				}
				return true
			}
		}
		return false
	})
}

func TestTellsWhatIsWrong(t *testing.T) {
	for reason, test := range map[string]struct {
		change  func(*batchv1.CronJob)
		job     bool
		message string
	}{
		"InvalidSchedule": {func(cj *batchv1.CronJob) { cj.Spec.Schedule = "59 23 31 2 *" }, false,
			"invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second"},
		"UnknownTimeZone": {func(cj *batchv1.CronJob) { cj.Spec.TimeZone, cj.Spec.Suspend = ptr.To("Nowhere/Else"), ptr.To(true) }, false,
			`invalid timeZone: "Nowhere/Else": unknown time zone Nowhere/Else`},
		"UnexpectedJob": {func(*batchv1.CronJob) {}, true, "Saw a job that the controller did not create or forgot: theirs"},
	} {
		t.Run(reason, func(t *testing.T) {
			cj := testCron(test.change)
			objects := []runtime.Object{cj}
			if test.job {
				objects = append(objects, testJob(cj, "theirs", time.Minute, ""))
			}
			f := controllertest.New(t, objects...)
			c, err := newController(f.Env, func() time.Time { return base })
			if err != nil {
				t.Fatal(err)
			}
			f.Start(t, c)
			told(t, f, reason, test.message)
		})
	}
}

// A time that only the new schedule has is not one that was missed.
func TestAChangedScheduleWaitsForItsNextTime(t *testing.T) {
	f := controllertest.New(t, testCron(func(cj *batchv1.CronJob) {
		cj.Spec.Schedule = "0 0 1 1 *"
		cj.Status.LastScheduleTime = &metav1.Time{Time: base}
	}))
	var looks atomic.Int32
	c, err := newController(f.Env, func() time.Time {
		looks.Add(1)
		return base.Add(30 * time.Minute)
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "the first look", func() bool { return looks.Load() > 0 })
	ctx := context.Background()
	change := func(f1 func(*batchv1.CronJob)) {
		t.Helper()
		controllertest.Eventually(t, "a change", func() bool {
			cj, err := f.Client.BatchV1().CronJobs("ns").Get(ctx, "tick", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			f1(cj)
			_, err = f.Client.BatchV1().CronJobs("ns").Update(ctx, cj, metav1.UpdateOptions{})
			return err == nil
		})
	}
	count := func() int {
		jobs, err := f.Client.BatchV1().Jobs("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(jobs.Items)
	}
	change(func(cj *batchv1.CronJob) { cj.Spec.Schedule = "*/7 * * * *" })
	controllertest.Eventually(t, "the new schedule to be seen", func() bool {
		cj, err := f.Env.Informers.Batch().V1().CronJobs().Lister().CronJobs("ns").Get("tick")
		return err == nil && cj.Spec.Schedule == "*/7 * * * *"
	})
	if n := count(); n != 0 {
		t.Errorf("%d jobs were made at once", n)
	}
	// As upstream does, any other change has it looked at.
	change(func(cj *batchv1.CronJob) { cj.Spec.SuccessfulJobsHistoryLimit = ptr.To[int32](2) })
	controllertest.Eventually(t, "the job of the last time", func() bool { return count() == 1 })
}
