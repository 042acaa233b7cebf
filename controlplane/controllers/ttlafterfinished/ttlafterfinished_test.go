package ttlafterfinished

import (
	"context"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
)

func testJob(name string, ttl *int32, ago time.Duration, condition batchv1.JobConditionType) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec:       batchv1.JobSpec{TTLSecondsAfterFinished: ttl},
		Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{
			{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-ago))}}},
	}
}

func TestDeletesWhatHasHadItsTime(t *testing.T) {
	f := controllertest.New(t,
		testJob("past", ptr.To[int32](10), time.Minute, batchv1.JobComplete),
		testJob("failed", ptr.To[int32](0), 0, batchv1.JobFailed),
		testJob("soon", ptr.To[int32](60), time.Minute-300*time.Millisecond, batchv1.JobComplete),
		testJob("later", ptr.To[int32](100), time.Minute, batchv1.JobComplete),
		testJob("for ever", nil, time.Hour, batchv1.JobComplete),
		testJob("running", ptr.To[int32](0), time.Hour, batchv1.JobSuspended))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "three jobs to be left", func() bool {
		jobs, err := f.Client.BatchV1().Jobs("ns").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		left := map[string]bool{}
		for _, job := range jobs.Items {
			left[job.Name] = true
		}
		return len(left) == 3 && left["later"] && left["for ever"] && left["running"]
	})
}
