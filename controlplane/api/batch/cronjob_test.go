package batch

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func newCronJob(change func(*batchv1.CronJob)) *batchv1.CronJob {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: batchv1.CronJobSpec{Schedule: "*/5 * * * *"}}
	c.Spec.JobTemplate.Spec.Template = newJob(nil).Spec.Template
	if change != nil {
		change(c)
	}
	cronJob.Default(c)
	return c
}

func TestInvalidCronJobs(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*batchv1.CronJobSpec)
		want   []string
	}{
		"plain":           {func(*batchv1.CronJobSpec) {}, nil},
		"descriptor":      {func(s *batchv1.CronJobSpec) { s.Schedule = "@hourly" }, nil},
		"no schedule":     {func(s *batchv1.CronJobSpec) { s.Schedule = "" }, []string{"spec.schedule: Required value"}},
		"six fields":      {func(s *batchv1.CronJobSpec) { s.Schedule = "* * * * * *" }, []string{`spec.schedule: Invalid value: "* * * * * *": expected exactly 5 fields, found 6: [* * * * * *]`}},
		"zone in it":      {func(s *batchv1.CronJobSpec) { s.Schedule = "TZ=UTC 0 * * * *" }, []string{"spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"}},
		"malformed zone":  {func(s *batchv1.CronJobSpec) { s.Schedule = "TZ=0" }, []string{`spec.schedule: Invalid value: "TZ=0": invalid schedule format: `, "spec.schedule: Invalid value: "}},
		"time zone":       {func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Europe/Zurich") }, nil},
		"old time zone":   {func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Etc/GMT+5") }, nil},
		"empty zone":      {func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("") }, []string{`spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string`}},
		"zone of a path":  {func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("../UTC") }, []string{`spec.timeZone: Invalid value: "../UTC": unknown time zone ../UTC`}},
		"local zone":      {func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Local") }, []string{`spec.timeZone: Invalid value: "Local": timeZone must be an explicit time zone`}},
		"nowhere":         {func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Moon/Sea") }, []string{`spec.timeZone: Invalid value: "Moon/Sea": unknown time zone Moon/Sea`}},
		"concurrency":     {func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = "Odd" }, []string{`spec.concurrencyPolicy: Unsupported value: "Odd": supported values: "Allow", "Forbid", "Replace"`}},
		"selector":        {func(s *batchv1.CronJobSpec) { s.JobTemplate.Spec.Selector = &metav1.LabelSelector{} }, []string{"spec.jobTemplate.spec.selector: Invalid value: "}},
		"manual selector": {func(s *batchv1.CronJobSpec) { s.JobTemplate.Spec.ManualSelector = ptr.To(true) }, []string{`spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"`}},
		"restarts":        {func(s *batchv1.CronJobSpec) { s.JobTemplate.Spec.Template.Spec.RestartPolicy = "" }, []string{"spec.jobTemplate.spec.template.spec.restartPolicy: Required value"}},
		"negative": {func(s *batchv1.CronJobSpec) {
			s.StartingDeadlineSeconds, s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = ptr.To[int64](-1), ptr.To[int32](-1), ptr.To[int32](-1)
		}, []string{"spec.startingDeadlineSeconds: ", "spec.successfulJobsHistoryLimit: ", "spec.failedJobsHistoryLimit: "}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCronJob(func(c *batchv1.CronJob) { test.change(&c.Spec) })
			want(t, cronJob.Validate(ctx, c), test.want...)
		})
	}
	long := newCronJob(func(c *batchv1.CronJob) { c.Name = strings.Repeat("x", 53) })
	want(t, cronJob.Validate(ctx, long), "metadata.name: Invalid value: ")
	want(t, cronJob.ValidateUpdate(ctx, long, long))

	zoned := newCronJob(func(c *batchv1.CronJob) { c.Spec.Schedule = "TZ=UTC 0 * * * *" })
	want(t, cronJob.ValidateUpdate(ctx, zoned, zoned))
	both := zoned.DeepCopy()
	both.Spec.TimeZone = ptr.To("UTC")
	want(t, cronJob.ValidateUpdate(ctx, both, zoned), "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule")
}

func TestCronJobRow(t *testing.T) {
	c := newCronJob(nil)
	if *c.Spec.SuccessfulJobsHistoryLimit != 3 || *c.Spec.FailedJobsHistoryLimit != 1 || c.Spec.ConcurrencyPolicy != "Allow" {
		t.Errorf("defaulted to %+v", c.Spec)
	}
	row := cronJob.Row(c)
	if len(row) != len(cronJob.Columns) || row[1] != "*/5 * * * *" || row[2] != "<none>" || row[3] != "False" || row[5] != "<none>" {
		t.Errorf("row %v", row)
	}
}
