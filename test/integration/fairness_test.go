package integration

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestFloodLeavesOthersServed confines one user to a single seat, floods the
// server in its name, and asks as somebody else.
func TestFloodLeavesOthersServed(t *testing.T) {
	c := Start(t)
	const name = "flood"
	level := &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: new(int32(1)), BorrowingLimitPercent: new(int32(0)),
				LimitResponse: flowcontrolv1.LimitResponse{
					Type:    flowcontrolv1.LimitResponseTypeQueue,
					Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 1, HandSize: 1, QueueLengthLimit: 4},
				},
			},
		},
	}
	schema := &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: name},
			MatchingPrecedence:         100,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
					Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true,
				}},
			}},
		},
	}
	flow := c.Client.FlowcontrolV1()
	must(flow.PriorityLevelConfigurations().Create(t.Context(), level, metav1.CreateOptions{}))(t)
	must(flow.FlowSchemas().Create(t.Context(), schema, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		ctx := context.Background()
		_ = flow.FlowSchemas().Delete(ctx, name, metav1.DeleteOptions{})
		_ = flow.PriorityLevelConfigurations().Delete(ctx, name, metav1.DeleteOptions{})
	})
	eventually(t, "the level in use", func(ctx context.Context) (bool, error) {
		raw, err := c.Client.Discovery().RESTClient().Get().AbsPath("/debug/api_priority_and_fairness/dump_priority_levels").DoRaw(ctx)
		return strings.Contains(string(raw), name), err
	})
	eventually(t, "the schema in use", func(ctx context.Context) (bool, error) {
		got, err := flow.FlowSchemas().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range got.Status.Conditions {
			if condition.Type == flowcontrolv1.FlowSchemaConditionDangling {
				return condition.Status == flowcontrolv1.ConditionFalse, nil
			}
		}
		return false, nil
	})

	flooding, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	attacker := must(c.Certificate(name, "system:masters-not"))(t)
	client := must(rest.HTTPClientFor(attacker))(t)
	refused := make(chan struct{})
	var once sync.Once
	for range 64 {
		all.Go(func() {
			for flooding.Err() == nil {
				answer, err := client.Get(attacker.Host + "/api/v1/namespaces/default/pods")
				if err != nil {
					continue
				}
				answer.Body.Close()
				if answer.StatusCode == 429 {
					once.Do(func() { close(refused) })
				}
			}
		})
	}
	select {
	case <-refused:
	case <-time.After(time.Minute):
		t.Fatal("64 requests at once on one seat and four places to wait, and none is refused")
	}
	other := clients(t, must(c.Certificate("other", "system:masters"))(t))
	ordinary := must(c.Certificate("ordinary"))(t)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if _, err := other.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{}); err != nil {
			t.Errorf("an administrator while another floods: %v", err)
		}
		if _, err := whoAmI(t, ordinary); err != nil {
			t.Errorf("a user while another floods: %v", err)
		}
		cancel()
	}
	metrics := string(must(c.Client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context()))(t))
	if !strings.Contains(metrics, `apiserver_flowcontrol_rejected_requests_total{flow_schema="flood",priority_level="flood"`) {
		t.Error("/metrics does not tell of refused requests")
	}
}
