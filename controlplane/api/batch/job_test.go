package batch

import (
	"context"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

var ctx = context.Background()

// newJob is a defaulted and prepared job, changed before by change.
func newJob(change func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "n", UID: "u"}}
	j.Spec.Template.Spec = corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers:    []corev1.Container{{Name: "c", Image: "i"}},
	}
	if change != nil {
		change(j)
	}
	job.Default(j)
	job.PrepareForCreate(ctx, j)
	return j
}

func indexed(n int32, change func(*batchv1.Job)) *batchv1.Job {
	return newJob(func(j *batchv1.Job) {
		j.Spec.CompletionMode, j.Spec.Completions = ptr.To(batchv1.IndexedCompletion), &n
		if change != nil {
			change(j)
		}
	})
}

// want compares errors with the starts of their messages.
func want(t *testing.T, errs field.ErrorList, messages ...string) {
	t.Helper()
	ok := len(errs) == len(messages)
	for i := range errs {
		ok = ok && strings.HasPrefix(errs[i].Error(), messages[i])
	}
	if !ok {
		t.Errorf("got %q, want %q", errs, messages)
	}
}

func TestDefaultJob(t *testing.T) {
	j := newJob(nil)
	spec := &j.Spec
	if *spec.Completions != 1 || *spec.Parallelism != 1 || *spec.BackoffLimit != 6 || *spec.Suspend || *spec.ManualSelector ||
		*spec.CompletionMode != batchv1.NonIndexedCompletion || *spec.PodReplacementPolicy != batchv1.TerminatingOrFailed {
		t.Errorf("defaulted to %+v", spec)
	}
	labels := map[string]string{"controller-uid": "u", "batch.kubernetes.io/controller-uid": "u", "job-name": "j", "batch.kubernetes.io/job-name": "j"}
	if !maps.Equal(spec.Template.Labels, labels) || !maps.Equal(spec.Selector.MatchLabels, map[string]string{"batch.kubernetes.io/controller-uid": "u"}) {
		t.Errorf("labels %v, selector %v", spec.Template.Labels, spec.Selector)
	}
	again := j.DeepCopy()
	job.Default(again)
	again.Labels = nil // shows the template's, once there are some
	if !reflect.DeepEqual(j, again) {
		t.Errorf("not idempotent:\n%+v\n%+v", j, again)
	}
	j = newJob(func(j *batchv1.Job) { j.Spec.Template.Labels = map[string]string{"a": "b"} })
	if len(j.Labels) != 5 {
		t.Errorf("a job without labels shows %v", j.Labels)
	}
	j = newJob(func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To[int32](3) })
	if j.Spec.Completions != nil {
		t.Errorf("a job with parallelism alone wants %d completions", *j.Spec.Completions)
	}
	j = indexed(2, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr.To[int32](1) })
	if *j.Spec.BackoffLimit != math.MaxInt32 {
		t.Errorf("backoff limit %d beside one per index", *j.Spec.BackoffLimit)
	}
	j = newJob(func(j *batchv1.Job) {
		j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "A"}}}}}
	})
	if *j.Spec.PodReplacementPolicy != batchv1.Failed || j.Spec.PodFailurePolicy.Rules[0].OnPodConditions[0].Status != corev1.ConditionTrue {
		t.Errorf("failure policy defaulted to %+v", j.Spec)
	}
}

func TestInvalidJobs(t *testing.T) {
	rule := func(r batchv1.PodFailurePolicyRule) *batchv1.Job {
		return newJob(func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{r}}
		})
	}
	codes := func(values ...int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: "Count", OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: values}}
	}
	success := func(r batchv1.SuccessPolicyRule) *batchv1.Job {
		return indexed(5, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{r}}
		})
	}
	with := func(change func(*batchv1.JobSpec)) *batchv1.Job {
		return newJob(func(j *batchv1.Job) { change(&j.Spec) })
	}
	at := "spec.podFailurePolicy.rules[0]"
	for name, test := range map[string]struct {
		job  *batchv1.Job
		want []string
	}{
		"plain":   {newJob(nil), nil},
		"indexed": {indexed(3, nil), nil},
		"negative": {with(func(s *batchv1.JobSpec) {
			s.Parallelism, s.Completions, s.BackoffLimit, s.TTLSecondsAfterFinished = ptr.To[int32](-1), ptr.To[int32](-1), ptr.To[int32](-1), ptr.To[int32](-1)
			s.ActiveDeadlineSeconds = ptr.To[int64](-1)
		}), []string{"spec.parallelism: Invalid value: -1: must be greater than or equal to 0", "spec.completions: ", "spec.activeDeadlineSeconds: ", "spec.backoffLimit: ", "spec.ttlSecondsAfterFinished: "}},
		"restart policy":  {with(func(s *batchv1.JobSpec) { s.Template.Spec.RestartPolicy = "Always" }), []string{`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`}},
		"manual selector": {with(func(s *batchv1.JobSpec) { s.ManualSelector = ptr.To(true) }), []string{"spec.selector: Required value", "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"}},
		"selector of another": {with(func(s *batchv1.JobSpec) {
			s.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}), []string{"spec.selector: Invalid value: ", "spec.template.metadata.labels: Invalid value: "}},
		"label of another": {with(func(s *batchv1.JobSpec) { s.Template.Labels = map[string]string{"job-name": "x"} }), []string{`spec.template.metadata.labels[job-name]: Invalid value: `}},
		"completion mode":  {with(func(s *batchv1.JobSpec) { s.CompletionMode = ptr.To(batchv1.CompletionMode("Odd")) }), []string{`spec.completionMode: Unsupported value: "Odd": supported values: "NonIndexed", "Indexed"`}},
		"indexed without completions": {with(func(s *batchv1.JobSpec) {
			s.CompletionMode, s.Parallelism = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](100001)
		}), []string{"spec.completions: Required value: when completion mode is Indexed", "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed"}},
		"per index without indexes": {with(func(s *batchv1.JobSpec) {
			s.BackoffLimitPerIndex, s.MaxFailedIndexes = ptr.To[int32](1), ptr.To[int32](1)
		}), []string{"spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode", "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode"}},
		"failed indexes": {indexed(3, func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = ptr.To[int32](4) }), []string{"spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified", "spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions"}},
		"many indexes": {indexed(100001, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.Parallelism = ptr.To[int32](1), ptr.To[int32](10001)
		}), []string{"spec.maxFailedIndexes: Required value: must be specified when completions is above 100000", "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000"}},
		"long name":  {indexed(1000, func(j *batchv1.Job) { j.Name = strings.Repeat("x", 60) }), []string{"metadata.name: Invalid value: "}},
		"managed by": {with(func(s *batchv1.JobSpec) { s.ManagedBy = ptr.To("me") }), []string{`spec.managedBy: Invalid value: "me": must be a domain-prefixed path`}},
		"replacement policy": {with(func(s *batchv1.JobSpec) {
			s.PodReplacementPolicy = ptr.To(batchv1.PodReplacementPolicy("Odd"))
		}), []string{`spec.podReplacementPolicy: Unsupported value: "Odd": supported values: "Failed", "TerminatingOrFailed"`}},

		"exit codes":            {rule(codes(1, 2)), nil},
		"exit code 0":           {rule(codes(0)), []string{at + ".onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"}},
		"exit codes twice":      {rule(codes(1, 1)), []string{at + ".onExitCodes.values[1]: Duplicate value: 1"}},
		"exit codes unsorted":   {rule(codes(2, 1)), []string{at + ".onExitCodes.values: Invalid value: [2,1]: must be ordered"}},
		"no exit codes":         {rule(codes()), []string{at + ".onExitCodes.values: Invalid value: "}},
		"nothing in a rule":     {rule(batchv1.PodFailurePolicyRule{Action: "FailJob"}), []string{at + ": Invalid value: specifying one of OnExitCodes and OnPodConditions is required"}},
		"no action":             {rule(batchv1.PodFailurePolicyRule{OnExitCodes: codes(1).OnExitCodes}), []string{at + `.action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`}},
		"index without backoff": {rule(batchv1.PodFailurePolicyRule{Action: "FailIndex", OnExitCodes: codes(1).OnExitCodes}), []string{at + `.action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set`}},
		"failure policy and restarts": {newJob(func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{}
			j.Spec.Template.Spec.RestartPolicy = "OnFailure"
		}), []string{`spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified`}},

		"success":                 {success(batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0,2-4"), SucceededCount: ptr.To[int32](4)}), nil},
		"success of none":         {success(batchv1.SuccessPolicyRule{}), []string{"spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified"}},
		"success beyond":          {success(batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("5")}), []string{`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "5": error parsing succeededIndexes: too large index: "5"`}},
		"success backwards":       {success(batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("3-1")}), []string{`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "3-1": error parsing succeededIndexes: non-increasing order, previous: 3, current: 1`}},
		"success of too many":     {success(batchv1.SuccessPolicyRule{SucceededCount: ptr.To[int32](6)}), []string{"spec.successPolicy.rules[0].succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)"}},
		"success without indexes": {newJob(func(j *batchv1.Job) { j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{} }), []string{"spec.successPolicy: Invalid value: "}},
	} {
		t.Run(name, func(t *testing.T) { want(t, job.Validate(ctx, test.job), test.want...) })
	}
}

func TestJobUpdates(t *testing.T) {
	suspended := func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }
	resize := func(j *batchv1.Job) {
		j.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
		j.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1")}
	}
	for name, test := range map[string]struct {
		old    *batchv1.Job
		change func(*batchv1.Job)
		want   []string
	}{
		"nothing":     {newJob(nil), func(*batchv1.Job) {}, nil},
		"parallelism": {newJob(nil), func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To[int32](2) }, nil},
		"completions": {newJob(nil), func(j *batchv1.Job) { j.Spec.Completions = ptr.To[int32](2) }, []string{"spec.completions: Invalid value: 2: field is immutable"}},
		"indexed completions": {indexed(2, nil), func(j *batchv1.Job) {
			j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](3), ptr.To[int32](3)
		}, nil},
		"indexed completions alone": {indexed(2, nil), func(j *batchv1.Job) { j.Spec.Completions = ptr.To[int32](3) }, []string{"spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"}},
		"template":                  {newJob(nil), resize, []string{"spec.template: Invalid value: "}},
		"template of a suspended":   {newJob(suspended), resize, nil},
		"image of a suspended":      {newJob(suspended), func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "x" }, []string{"spec.template.spec: Invalid value: "}},
		"policies": {newJob(nil), func(j *batchv1.Job) {
			j.Spec.ManagedBy = ptr.To("example.com/me")
			j.Spec.PodFailurePolicy, j.Spec.PodReplacementPolicy = &batchv1.PodFailurePolicy{}, ptr.To(batchv1.Failed)
		}, []string{"spec.podFailurePolicy: Invalid value: ", `spec.managedBy: Invalid value: "example.com/me": field is immutable`}},
	} {
		t.Run(name, func(t *testing.T) {
			j := test.old.DeepCopy()
			test.change(j)
			want(t, job.ValidateUpdate(ctx, j, test.old), test.want...)
		})
	}
}

func TestJobStatus(t *testing.T) {
	now := metav1.NewTime(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))
	later := metav1.NewTime(now.Add(time.Minute))
	met := func(types ...batchv1.JobConditionType) (list []batchv1.JobCondition) {
		for _, kind := range types {
			list = append(list, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue})
		}
		return list
	}
	done := batchv1.JobStatus{Conditions: met("SuccessCriteriaMet", "Complete"), StartTime: &now, CompletionTime: &later, Succeeded: 1}
	for name, test := range map[string]struct {
		job      *batchv1.Job
		old, now batchv1.JobStatus
		want     []string
	}{
		"starts":                {newJob(nil), batchv1.JobStatus{}, batchv1.JobStatus{Active: 1, StartTime: &now, Ready: ptr.To[int32](1)}, nil},
		"completes":             {newJob(nil), batchv1.JobStatus{StartTime: &now}, done, nil},
		"fails":                 {newJob(nil), batchv1.JobStatus{StartTime: &now}, batchv1.JobStatus{StartTime: &now, Failed: 1, Conditions: met("FailureTarget", "Failed")}, nil},
		"fails all at once":     {newJob(nil), batchv1.JobStatus{StartTime: &now}, batchv1.JobStatus{StartTime: &now, Conditions: met("Failed")}, []string{"status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"}},
		"more ready":            {newJob(nil), batchv1.JobStatus{}, batchv1.JobStatus{Ready: ptr.To[int32](1)}, []string{"status.ready: Invalid value: 1: cannot set more ready pods than active"}},
		"negative":              {newJob(nil), batchv1.JobStatus{}, batchv1.JobStatus{Active: -1}, []string{"status.active: Invalid value: -1"}},
		"counted twice":         {newJob(nil), batchv1.JobStatus{}, batchv1.JobStatus{UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a"}, Failed: []types.UID{"a", ""}}}, []string{"status.uncountedTerminatedPods.failed[0]: Duplicate value", "status.uncountedTerminatedPods.failed[1]: Invalid value"}},
		"finished and active":   {newJob(nil), batchv1.JobStatus{StartTime: &now}, func() batchv1.JobStatus { s := *done.DeepCopy(); s.Active = 1; return s }(), []string{"status.active: Invalid value: 1: active>0 is invalid for finished job"}},
		"no completion time":    {newJob(nil), batchv1.JobStatus{StartTime: &now}, batchv1.JobStatus{StartTime: &now, Conditions: done.Conditions}, []string{"status.completionTime: Required value: completionTime is required for Complete jobs"}},
		"ends before it starts": {newJob(nil), batchv1.JobStatus{}, batchv1.JobStatus{StartTime: &later, CompletionTime: &now, Conditions: done.Conditions}, []string{"status.completionTime: Invalid value"}},
		"goes on":               {newJob(nil), done, batchv1.JobStatus{StartTime: &now, Succeeded: 1}, []string{"status.conditions: Invalid value: cannot disable the terminal Complete=True condition", "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition"}},
		"counts back":           {newJob(nil), batchv1.JobStatus{Succeeded: 2, Failed: 2}, batchv1.JobStatus{}, []string{"status.failed: Invalid value: 0: cannot decrease the failed counter", "status.succeeded: Invalid value: 0"}},
		"starts anew":           {newJob(nil), batchv1.JobStatus{StartTime: &now}, batchv1.JobStatus{StartTime: &later}, []string{"status.startTime: Invalid value"}},
		"indexes":               {indexed(5, nil), batchv1.JobStatus{}, batchv1.JobStatus{CompletedIndexes: "0-2,4"}, nil},
		"indexes of none":       {newJob(nil), batchv1.JobStatus{}, batchv1.JobStatus{CompletedIndexes: "0"}, []string{`status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion mode`}},
		"both failed and completed": {indexed(5, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr.To[int32](0) }), batchv1.JobStatus{}, batchv1.JobStatus{CompletedIndexes: "0-2", FailedIndexes: ptr.To("2,3")},
			[]string{`status.failedIndexes: Invalid value: "2,3": failedIndexes and completedIndexes overlap at index: 2`}},
	} {
		t.Run(name, func(t *testing.T) {
			old := test.job.DeepCopy()
			old.Status = test.old
			j := test.job.DeepCopy()
			j.Status = test.now
			want(t, job.Status.Validate(ctx, j, old), test.want...)
			// What is broken already can be written again.
			if len(test.want) > 0 && test.want[0][:12] != "status.activ" && test.want[0][:12] != "status.uncou" {
				want(t, job.Status.Validate(ctx, j, j))
			}
		})
	}
}

func TestJobRow(t *testing.T) {
	start := metav1.NewTime(time.Now().Add(-time.Hour))
	end := metav1.NewTime(start.Add(90 * time.Second))
	j := newJob(nil)
	j.Status = batchv1.JobStatus{Succeeded: 1, StartTime: &start, CompletionTime: &end, Conditions: []batchv1.JobCondition{{Type: "Complete", Status: "True"}}}
	row := job.Row(j)
	if len(row) != len(job.Columns) || row[1] != "Complete" || row[2] != "1/1" || row[3] != "90s" {
		t.Errorf("row %v", row)
	}
	j = newJob(func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To[int32](4) })
	if row = job.Row(j); row[1] != "Running" || row[2] != "0/1 of 4" || row[3] != "" {
		t.Errorf("row %v", row)
	}
}
