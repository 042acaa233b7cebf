package csrclean

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStale(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	for name, test := range map[string]struct {
		created time.Duration
		kind    certificatesv1.RequestConditionType
		settled time.Duration
		issued  bool
		want    bool
	}{
		"pending":              {time.Hour, "", 0, false, false},
		"pending for long":     {25 * time.Hour, "", 0, false, true},
		"just denied":          {30 * time.Hour, certificatesv1.CertificateDenied, time.Minute, false, false},
		"denied":               {30 * time.Hour, certificatesv1.CertificateDenied, 2 * time.Hour, false, true},
		"failed":               {2 * time.Hour, certificatesv1.CertificateFailed, 2 * time.Hour, false, true},
		"approved, not signed": {2 * time.Hour, certificatesv1.CertificateApproved, 2 * time.Hour, false, false},
		"approved and signed":  {2 * time.Hour, certificatesv1.CertificateApproved, 2 * time.Hour, true, true},
		"approved just now":    {2 * time.Minute, certificatesv1.CertificateApproved, time.Minute, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: ago(test.created)}}
			if test.kind != "" {
				o.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: test.kind, LastUpdateTime: ago(test.settled)}}
			}
			if test.issued {
				o.Status.Certificate = []byte("not read before it is old")
			}
			if got := stale(o, now); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
