package legacytokens

import (
	"context"
	"maps"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"clusterctl/controlplane/auth/authn"
	"clusterctl/controlplane/controllers/controllertest"
)

func TestCleanTakesUnusedTokensAway(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	const today, recent, old = "2026-07-01", "2025-07-01", "2025-06-30"
	long := now.AddDate(-3, 0, 0)
	mounting := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "tok"}}}},
	}}
	whole := map[string][]byte{"token": []byte("an old token"), "ca.crt": []byte("the CA"), "namespace": []byte("ns")}
	for name, test := range map[string]struct {
		since    string // of the tracking
		used     string
		marked   string
		created  time.Time
		unlisted bool
		uid      string
		pod      *corev1.Pod
		want     string // the mark; "gone"
	}{
		"never used":             {since: old[:8] + "01", created: long, want: today},
		"used long ago":          {since: "2020-01-01", used: old, created: long, want: today},
		"used":                   {since: "2020-01-01", used: recent, created: long},
		"used some day":          {since: "2020-01-01", used: "yesterday", created: long},
		"tracked for too short":  {since: recent, used: old, created: long},
		"tracked by a bad date":  {since: "once", used: old, created: long},
		"not tracked yet":        {used: old, created: long},
		"young":                  {since: "2020-01-01", created: now.AddDate(0, -1, 0)},
		"asked for":              {since: "2020-01-01", created: long, unlisted: true},
		"of another account":     {since: "2020-01-01", created: long, uid: "of another life"},
		"mounted":                {since: "2020-01-01", created: long, pod: mounting},
		"marked":                 {since: "2020-01-01", created: long, marked: recent, want: recent},
		"marked by hand":         {since: "2020-01-01", created: long, marked: "yes", want: today},
		"marked long ago":        {since: "2020-01-01", created: long, marked: old, want: "gone"},
		"marked, used since":     {since: "2020-01-01", created: long, marked: old, used: recent, want: old},
		"marked, and is mounted": {since: "2020-01-01", created: long, marked: old, pod: mounting, want: old},
	} {
		t.Run(name, func(t *testing.T) {
			token := secret("tok", "robot", "robot-uid", maps.Clone(whole))
			token.CreationTimestamp = metav1.NewTime(test.created)
			token.Labels = map[string]string{}
			if test.used != "" {
				token.Labels[authn.LastUsedLabel] = test.used
			}
			if test.marked != "" {
				token.Labels[authn.InvalidSinceLabel] = test.marked
			}
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot", Namespace: "ns", UID: "robot-uid"}}
			if !test.unlisted {
				account.Secrets = []corev1.ObjectReference{{Name: "tok"}}
			}
			if test.uid != "" {
				account.UID = "robot-uid-2" // what the secret says is another
			}
			objects := []runtime.Object{token, account}
			if test.since != "" {
				objects = append(objects, &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: authn.TrackingConfigMap, Namespace: "kube-system"}, Data: map[string]string{authn.TrackingSince: test.since},
				})
			}
			f := controllertest.New(t, objects...)
			made, err := New(f.Env, files(t))
			if err != nil {
				t.Fatal(err)
			}
			c := made.(*controller)
			if err := c.secrets.GetStore().Add(token); err != nil {
				t.Fatal(err)
			}
			if err := f.Env.Informers.Core().V1().ServiceAccounts().Informer().GetStore().Add(account); err != nil {
				t.Fatal(err)
			}
			if test.pod != nil {
				if err := f.Env.Informers.Core().V1().Pods().Informer().GetStore().Add(test.pod); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.clean(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			got, err := f.Client.CoreV1().Secrets("ns").Get(context.Background(), "tok", metav1.GetOptions{})
			mark := ""
			switch {
			case apierrors.IsNotFound(err):
				mark = "gone"
			case err != nil:
				t.Fatal(err)
			default:
				mark = got.Labels[authn.InvalidSinceLabel]
			}
			if mark != test.want {
				t.Errorf("the mark is %q, want %q", mark, test.want)
			}
		})
	}
}
