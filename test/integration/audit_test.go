package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// audited are the events of the audit log that keep accepts.
func audited(t *testing.T, c *Cluster, keep func(auditv1.Event) bool) []auditv1.Event {
	t.Helper()
	raw := must(os.ReadFile(c.Config.AuditLog))(t)
	var events []auditv1.Event
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, len(raw)+1)
	for lines.Scan() {
		var event auditv1.Event
		// The last line may be under way.
		if json.Unmarshal(lines.Bytes(), &event) == nil && keep(event) {
			events = append(events, event)
		}
	}
	return events
}

func in(namespace, resource, verb string) func(auditv1.Event) bool {
	return func(e auditv1.Event) bool {
		return e.ObjectRef != nil && e.ObjectRef.Namespace == namespace && e.Verb == verb &&
			strings.TrimSuffix(e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/") == resource
	}
}

// TestAudit checks what is recorded when there is no policy of the operator's.
func TestAudit(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	core := c.Client.CoreV1()
	const hidden = "hunter2hunter2"
	must(core.Secrets(ns).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": hidden},
	}, metav1.CreateOptions{}))(t)
	must(core.ConfigMaps(ns).Create(t.Context(), configMap("m", map[string]string{"password": hidden}), metav1.CreateOptions{}))(t)
	token := must(core.ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))(t).Status.Token
	must(core.Secrets(ns).List(t.Context(), metav1.ListOptions{}))(t)
	must(core.LimitRanges(ns).Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}}, metav1.CreateOptions{}))(t)
	inside := clients(t, c.Server.ClientConfig("system:kube-scheduler", "system:masters"))
	must(inside.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}))(t)
	must(core.Pods(ns).List(t.Context(), metav1.ListOptions{}))(t) // recorded, so what came before would be

	for _, want := range []struct {
		resource, verb string
		level          auditv1.Level
	}{
		{"secrets", "create", auditv1.LevelMetadata},
		{"configmaps", "create", auditv1.LevelMetadata},
		{"serviceaccounts/token", "create", auditv1.LevelMetadata},
		{"secrets", "list", auditv1.LevelMetadata},
		{"limitranges", "create", auditv1.LevelRequest},
		{"pods", "list", auditv1.LevelMetadata},
	} {
		eventually(t, "the record of "+want.verb+" "+want.resource, func(context.Context) (bool, error) {
			return len(audited(t, c, in(ns, want.resource, want.verb))) > 0, nil
		})
		for _, event := range audited(t, c, in(ns, want.resource, want.verb)) {
			if event.Level != want.level || (event.RequestObject != nil) != (want.level == auditv1.LevelRequest) || event.ResponseObject != nil {
				t.Errorf("%s %s is recorded as %s with request %v and response %v", want.verb, want.resource, event.Level, event.RequestObject, event.ResponseObject)
			}
			if event.User.Username != "admin" || event.Stage != auditv1.StageResponseComplete || event.ResponseStatus == nil {
				t.Errorf("%s %s is recorded as of %s, %s, %v", want.verb, want.resource, event.User.Username, event.Stage, event.ResponseStatus)
			}
		}
	}
	if reads := audited(t, c, func(e auditv1.Event) bool {
		return e.User.Username == "system:kube-scheduler" && e.Verb == "list"
	}); len(reads) > 0 {
		t.Errorf("what the scheduler reads is recorded: %v", reads[0])
	}
	raw := must(os.ReadFile(c.Config.AuditLog))(t)
	for _, secret := range []string{hidden, token} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Error("the audit log holds a secret")
		}
	}
	if mode := must(os.Stat(c.Config.AuditLog))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("the audit log has mode %o, want 600", mode)
	}
}
