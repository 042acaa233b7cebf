package hostop

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestEveryKindTravels(t *testing.T) {
	for key, make := range kinds {
		op := make()
		if got := Kind(op); got != key {
			t.Errorf("Kind(%T) = %q, want %q", op, got, key)
		}
		if op.Describe() == "" {
			t.Errorf("%s describes itself as nothing", key)
		}
		raw, err := json.Marshal(Request{ID: 1, Ops: Ops{op}})
		if err != nil {
			t.Fatal(err)
		}
		var back Request
		if err := json.Unmarshal(raw, &back); err != nil || !reflect.DeepEqual(back.Ops, Ops{op}) {
			t.Errorf("%s came back as %+v, %v", key, back.Ops, err)
		}
	}
}

func TestSecretsStayOutOfDescriptions(t *testing.T) {
	const secret = "BEGIN PRIVATE KEY"
	for _, op := range []Op{
		&File{Path: "/a", Content: []byte(secret)},
		&Certificate{Pair: "etcd", Key: []byte(secret)},
		&Encryption{PKIDir: "/pki", Content: []byte(secret)},
		&Authorities{PKIDir: "/pki", Bundle: map[string][]byte{"cluster.key": []byte(secret)}},
	} {
		if strings.Contains(op.Describe(), secret) {
			t.Errorf("%T shows its content: %s", op, op.Describe())
		}
	}
}

func TestOpsRefuse(t *testing.T) {
	for input, want := range map[string]string{
		`{}`:                      "decode operations",
		`[{}]`:                    "want one key, got 0",
		`[{"file":{},"link":{}}]`: "want one key, got 2",
		`[{"teleport":{}}]`:       `unknown kind "teleport"`,
		`[{"file":{"mode":"x"}}]`: "decode operation 0 (file)",
	} {
		var ops Ops
		if err := json.Unmarshal([]byte(input), &ops); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", input, err, want)
		}
	}
}
