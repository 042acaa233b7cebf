package batch

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // hosts need not have the time zone database

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

// maxCronJobName leaves room for the suffix of the jobs' names.
const maxCronJobName = 52

var cronJob = api.Definition[*batchv1.CronJob]{
	GroupVersion: batchv1.SchemeGroupVersion,
	Kind:         "CronJob",
	Resource:     "cronjobs",
	Singular:     "cronjob",
	ShortNames:   []string{"cj"},
	Categories:   []string{"all"},
	New:          func() *batchv1.CronJob { return &batchv1.CronJob{} },
	NewList:      func() runtime.Object { return &batchv1.CronJobList{} },

	Default: func(c *batchv1.CronJob) {
		defaultJobTemplate(&c.Spec.JobTemplate.Spec)
		if c.Spec.ConcurrencyPolicy == "" {
			c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
		}
		setDefault(&c.Spec.Suspend, false)
		setDefault(&c.Spec.SuccessfulJobsHistoryLimit, 3)
		setDefault(&c.Spec.FailedJobsHistoryLimit, 1)
	},
	Validate: func(_ context.Context, c *batchv1.CronJob) field.ErrorList {
		errs := checkCronJobSpec(&c.Spec, nil, field.NewPath("spec"))
		if len(c.Name) > maxCronJobName {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
		}
		return errs
	},
	ValidateUpdate: func(_ context.Context, c, old *batchv1.CronJob) field.ErrorList {
		return checkCronJobSpec(&c.Spec, &old.Spec, field.NewPath("spec"))
	},
	Warnings: cronJobWarnings,
	Spec:     func(c *batchv1.CronJob) any { return c.Spec },
	Status: &api.Status[*batchv1.CronJob]{
		Copy:         func(to, from *batchv1.CronJob) { to.Status = from.Status },
		KeepMetadata: true,
	},
	Columns: append(append([]metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Schedule", batchv1.CronJobSpec{}.SwaggerDoc()["schedule"]),
		columns.Text("Timezone", batchv1.CronJobSpec{}.SwaggerDoc()["timeZone"]),
		{Name: "Suspend", Type: "boolean", Description: batchv1.CronJobSpec{}.SwaggerDoc()["suspend"]},
		columns.Number("Active", batchv1.CronJobStatus{}.SwaggerDoc()["active"]),
		columns.Text("Last Schedule", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]),
		columns.Age(),
	}, columns.Containers()...),
		columns.Wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"])),
	Row: func(c *batchv1.CronJob) []any {
		suspended, last := "<unset>", "<none>"
		if c.Spec.Suspend != nil {
			suspended = map[bool]string{true: "True", false: "False"}[*c.Spec.Suspend]
		}
		if c.Status.LastScheduleTime != nil {
			last = columns.Since(c.Status.LastScheduleTime.Time)
		}
		names, images := columns.ContainerCells(c.Spec.JobTemplate.Spec.Template.Spec.Containers)
		return []any{c.Name, c.Spec.Schedule, ptr.Deref(c.Spec.TimeZone, "<none>"), suspended, int64(len(c.Status.Active)), last,
			columns.Since(c.CreationTimestamp.Time), names, images, metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector)}
	},
}

func cronJobWarnings(_ context.Context, c, old *batchv1.CronJob) (warnings []string) {
	path := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		return append(core.NameWarnings(c.Name), jobWarnings(&c.Spec.JobTemplate.Spec, path)...)
	}
	if c.Generation != old.Generation {
		warnings = jobWarnings(&c.Spec.JobTemplate.Spec, path)
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		warnings = append(warnings, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return warnings
}

// checkCronJobSpec checks a spec; old is nil for a new one.
func checkCronJobSpec(spec, old *batchv1.CronJobSpec, path *field.Path) (errs field.ErrorList) {
	if spec.Schedule == "" {
		errs = append(errs, field.Required(path.Child("schedule"), ""))
	} else {
		zoned := old != nil && strings.Contains(old.Schedule, "TZ")
		errs = append(errs, checkSchedule(spec, zoned, path.Child("schedule"))...)
	}
	errs = append(errs, nonnegative(spec.StartingDeadlineSeconds, path.Child("startingDeadlineSeconds"))...)
	if old == nil || !ptr.Equal(old.TimeZone, spec.TimeZone) {
		errs = append(errs, checkTimeZone(spec.TimeZone, path.Child("timeZone"))...)
	}
	switch spec.ConcurrencyPolicy {
	case batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent:
	case "":
		errs = append(errs, field.Required(path.Child("concurrencyPolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("concurrencyPolicy"), spec.ConcurrencyPolicy,
			[]batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}))
	}
	template, at := &spec.JobTemplate.Spec, path.Child("jobTemplate", "spec")
	errs = append(errs, checkJobSpec(template, at)...)
	if template.Selector != nil {
		errs = append(errs, field.Invalid(at.Child("selector"), template.Selector, "`selector` will be auto-generated"))
	}
	if ptr.Deref(template.ManualSelector, false) {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), template.ManualSelector, []string{"nil", "false"}))
	}
	errs = append(errs, nonnegative(spec.SuccessfulJobsHistoryLimit, path.Child("successfulJobsHistoryLimit"))...)
	return append(errs, nonnegative(spec.FailedJobsHistoryLimit, path.Child("failedJobsHistoryLimit"))...)
}

// checkSchedule checks a cron expression. zoned lets it keep a time zone of
// its own, which it could have before there was a field for it.
func checkSchedule(spec *batchv1.CronJobSpec, zoned bool, path *field.Path) (errs field.ErrorList) {
	if _, err := ParseSchedule(spec.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, spec.Schedule, err.Error()))
	}
	if !strings.Contains(spec.Schedule, "TZ") {
		return errs
	}
	switch {
	case !zoned:
		errs = append(errs, field.Invalid(path, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case spec.TimeZone != nil:
		errs = append(errs, field.Invalid(path, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// ParseSchedule reads a cron expression of five fields, or a descriptor such
// as @hourly. The parser panics on some malformed time zones; here that is an
// error like others.
func ParseSchedule(text string) (schedule cron.Schedule, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			schedule, err = nil, fmt.Errorf("invalid schedule format: %v", fault)
		}
	}()
	return cron.ParseStandard(text)
}

// timeZonePart is one part of a zone's name, as the tz database names them.
// Digits and + are for its old names (Etc/GMT+1).
var timeZonePart = regexp.MustCompile(`^[A-Za-z._0-9+][A-Za-z._0-9+-]{0,13}$`)

func checkTimeZone(zone *string, path *field.Path) (errs field.ErrorList) {
	if zone == nil {
		return nil
	}
	if *zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(*zone, "/") {
		if part == "." || part == ".." || !timeZonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+*zone)}
		}
	}
	if strings.EqualFold(*zone, "Local") {
		errs = append(errs, field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		errs = append(errs, field.Invalid(path, zone, err.Error()))
	}
	return errs
}
