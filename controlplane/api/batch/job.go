package batch

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

// Labels of a job's pods from before they had a prefix.
const (
	legacyControllerUIDLabel = "controller-uid"
	legacyJobNameLabel       = "job-name"
)

var job = api.Definition[*batchv1.Job]{
	GroupVersion: batchv1.SchemeGroupVersion,
	Kind:         "Job",
	Resource:     "jobs",
	Singular:     "job",
	Categories:   []string{"all"},
	New:          func() *batchv1.Job { return &batchv1.Job{} },
	NewList:      func() runtime.Object { return &batchv1.JobList{} },

	// Clients of batch/v1 have always had to ask for a job's pods to go.
	DefaultGarbageCollection: rest.OrphanDependents,

	Default: defaultJob,
	PrepareForCreate: func(_ context.Context, j *batchv1.Job) {
		if !ptr.Deref(j.Spec.ManualSelector, false) {
			generateSelector(j)
		}
	},
	Validate:       func(_ context.Context, j *batchv1.Job) field.ErrorList { return checkNewJob(j) },
	ValidateUpdate: func(_ context.Context, j, old *batchv1.Job) field.ErrorList { return checkJobUpdate(j, old) },
	Warnings: func(_ context.Context, j, old *batchv1.Job) (warnings []string) {
		if old == nil {
			warnings = core.NameWarnings(j.Name)
		} else if j.Generation == old.Generation {
			return nil
		}
		return append(warnings, jobWarnings(&j.Spec, field.NewPath("spec"))...)
	},
	Spec: func(j *batchv1.Job) any { return j.Spec },
	Status: &api.Status[*batchv1.Job]{
		Copy:         func(to, from *batchv1.Job) { to.Status = from.Status },
		KeepMetadata: true,
		Validate:     func(_ context.Context, j, old *batchv1.Job) field.ErrorList { return checkJobStatus(j, old) },
	},
	Fields: func(j *batchv1.Job) fields.Set {
		return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
	},
	FieldNames:   []string{"status.successful"},
	UnknownField: "field label %q not supported for Job",
	Columns: append(append([]metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Status", "Status of the job."),
		columns.Text("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
		columns.Text("Duration", "Time required to complete the job."),
		columns.Age(),
	}, columns.Containers()...),
		columns.Wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"])),
	Row: func(j *batchv1.Job) []any {
		names, images := columns.ContainerCells(j.Spec.Template.Spec.Containers)
		return []any{j.Name, statusCell(j), completionsCell(j), durationCell(j), columns.Since(j.CreationTimestamp.Time),
			names, images, metav1.FormatLabelSelector(j.Spec.Selector)}
	},
}

func defaultJob(j *batchv1.Job) {
	spec := &j.Spec
	defaultJobTemplate(spec)
	if spec.Completions == nil && spec.Parallelism == nil {
		spec.Completions = ptr.To[int32](1)
	}
	setDefault(&spec.Parallelism, 1)
	if spec.BackoffLimitPerIndex != nil {
		setDefault(&spec.BackoffLimit, math.MaxInt32)
	}
	setDefault(&spec.BackoffLimit, 6)
	// The map is shared on purpose: labels that are generated for the template
	// show on a job that has none of its own.
	if spec.Template.Labels != nil && len(j.Labels) == 0 {
		j.Labels = spec.Template.Labels
	}
	setDefault(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	setDefault(&spec.Suspend, false)
	if spec.PodFailurePolicy != nil {
		setDefault(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	setDefault(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	setDefault(&spec.ManualSelector, false)
}

// defaultJobTemplate is what the templates in cron jobs get too.
func defaultJobTemplate(spec *batchv1.JobSpec) {
	core.DefaultPodTemplate(&spec.Template)
	if spec.PodFailurePolicy == nil {
		return
	}
	for i := range spec.PodFailurePolicy.Rules {
		patterns := spec.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range patterns {
			if patterns[j].Status == "" {
				patterns[j].Status = corev1.ConditionTrue
			}
		}
	}
}

// setDefault fills in a field that was left out.
func setDefault[V any](field **V, value V) {
	if *field == nil {
		*field = &value
	}
}

// generatedLabels are what tells a job's pods from those of others.
func generatedLabels(j *batchv1.Job) map[string]string {
	return map[string]string{
		legacyJobNameLabel:         j.Name,
		batchv1.JobNameLabel:       j.Name,
		legacyControllerUIDLabel:   string(j.UID),
		batchv1.ControllerUidLabel: string(j.UID),
	}
}

// generateSelector labels the template and selects by the job's UID. What the
// client has set already stays, and is judged by validation.
func generateSelector(j *batchv1.Job) {
	if j.Spec.Template.Labels == nil {
		j.Spec.Template.Labels = map[string]string{}
	}
	for label, value := range generatedLabels(j) {
		if _, set := j.Spec.Template.Labels[label]; !set {
			j.Spec.Template.Labels[label] = value
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, set := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !set {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}

func jobWarnings(spec *batchv1.JobSpec, path *field.Path) (warnings []string) {
	if isIndexed(spec) && ptr.Deref(spec.Completions, 0) > manyCompletions && ptr.Deref(spec.Parallelism, 0) > limitForManyCompletions {
		warnings = append(warnings, fmt.Sprintf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail", path))
	}
	return append(warnings, core.PodTemplateWarnings(&spec.Template, path.Child("template"))...)
}

func isIndexed(spec *batchv1.JobSpec) bool {
	return ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

func statusCell(j *batchv1.Job) string {
	switch {
	case hasCondition(j, batchv1.JobComplete, corev1.ConditionTrue):
		return "Complete"
	case hasCondition(j, batchv1.JobFailed, corev1.ConditionTrue):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	}
	for _, condition := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if hasCondition(j, condition, corev1.ConditionTrue) {
			return string(condition)
		}
	}
	return "Running"
}

func completionsCell(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if parallelism := ptr.Deref(j.Spec.Parallelism, 0); parallelism > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func durationCell(j *batchv1.Job) string {
	switch start, end := j.Status.StartTime, j.Status.CompletionTime; {
	case start == nil:
		return ""
	case end == nil:
		return duration.HumanDuration(time.Since(start.Time))
	default:
		return duration.HumanDuration(end.Sub(start.Time))
	}
}
