package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/yaml"

	"clusterctl/hostconfig"
)

// What stock Kubernetes answers is recorded in testdata/stock, and the API
// server has to answer the same. To record it anew, and to compare far more
// than what is recorded:
//
//	cd test/conformance && go build -o /tmp/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
//	go test ./test/integration -run TestStockDiffers -stock /tmp/kube-apiserver [-record]
var (
	stockBinary = flag.String("stock", "", "kube-apiserver to compare with")
	stockKind   = flag.String("kind", "", "compare only the kinds whose name has this prefix")
	stockEvery  = flag.Int("every", 1, "try only one of so many mutations: a pod has 25,000")
	record      = flag.Bool("record", false, "record what kube-apiserver answers")
)

// recorded is what stock answered about a kind's sample.
type recorded struct {
	// Stored is the object that creating the sample answers.
	Stored map[string]any `json:"stored"`
	// Columns and Cells are its table's.
	Columns []map[string]any `json:"columns,omitempty"`
	Cells   []any            `json:"cells,omitempty"`
	// Refused are requests that are not allowed.
	Refused []refusal `json:"refused,omitempty"`
	// Differs are requests whose answers are known not to be stock's. No test
	// wants them to be: they are here to be seen.
	Differs []difference `json:"differs,omitempty"`
}

// refusal is a request with a mutated sample ("update /spec/x -1") and what
// the server answers ("422 Invalid: …").
type refusal struct {
	Do  string `json:"do"`
	Get string `json:"get"`
}

type difference struct {
	Do    string `json:"do"`
	Stock string `json:"stock"`
	Ours  string `json:"ours"`
}

func recordedPath(s *sample) string {
	return filepath.Join("testdata", "stock", s.name()+".yaml")
}

// home is the namespace of a kind's sample: what limits others lives apart.
func (s *sample) home() string {
	if s.gvr.Resource == "limitranges" || s.gvr.Resource == "resourcequotas" {
		return sampleNamespace + "-" + s.gvr.Resource
	}
	return sampleNamespace
}

// trial sends mutated samples of a kind to one server.
type trial struct {
	*sample
	caller
	name   string
	stored map[string]any // nil for a kind that is not kept
	lock   sync.Mutex
}

// begin prepares the place for the kind's sample.
func begin(t *testing.T, c caller, s *sample) *trial {
	t.Helper()
	if err := c.makeNamespace(t.Context(), s.home()); err != nil {
		t.Fatal(err)
	}
	r := &trial{sample: s, caller: c}
	r.name, _ = at(s.object(t), "metadata", "name").(string)
	return r
}

// create creates the sample, with its status, and returns what creating it
// answered: nothing for what cannot be created here.
func (r *trial) create(t *testing.T) map[string]any {
	t.Helper()
	if r.gvr.Resource == "bindings" {
		return nil
	}
	created := r.want(t, http.StatusCreated, http.MethodPost, r.path(r.home()), r.Object)
	if !r.kept() {
		return created
	}
	t.Cleanup(func() { r.end(t) })
	if r.Status != nil {
		r.want(t, http.StatusOK, http.MethodPatch, r.itself()+"/status", r.Status, "application/merge-patch+json")
	}
	r.stored = r.want(t, http.StatusOK, http.MethodGet, r.itself(), nil)
	if r.gvr.Resource == "customresourcedefinitions" {
		// What of it may change is another thing once it is served.
		eventually(t, "the definition to be established", func(context.Context) (bool, error) {
			r.stored = r.want(t, http.StatusOK, http.MethodGet, r.itself(), nil)
			conditions, _ := at(r.stored, "status", "conditions").([]any)
			return slices.ContainsFunc(conditions, func(c any) bool {
				condition, _ := c.(map[string]any)
				return condition["type"] == "Established" && condition["status"] == "True"
			}), nil
		})
	}
	return created
}

func (r *trial) end(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	a, err := r.call(ctx, http.MethodDelete, r.itself()+"?gracePeriodSeconds=0", "", nil, "")
	if err != nil || a.code >= 300 {
		t.Errorf("clean up: %d %s %v", a.code, a.message(), err)
	}
}

func (r *trial) itself() string { return r.path(r.home()) + "/" + r.name }

// verbs are what a trial does to the kind.
func (r *trial) verbs() []string {
	verbs := []string{"create"}
	if r.can("update") {
		verbs = append(verbs, "update")
	}
	if r.Status != nil {
		verbs = append(verbs, "status")
	}
	return verbs
}

// base is what verb's mutations start from; the caller may change it.
func (r *trial) base(t *testing.T, verb string) map[string]any {
	if verb == "create" {
		return r.object(t)
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	return decode(t, encode(t, r.stored))
}

// try sends the sample with the mutation as a dry run. It reports false if the
// mutation has no place in the object.
func (r *trial) try(t *testing.T, verb string, m mutation) (answer, bool) {
	t.Helper()
	for range 10 {
		object := r.base(t, verb)
		if !m.apply(object) {
			return answer{}, false
		}
		method, path := http.MethodPut, r.itself()
		switch verb {
		case "create":
			method, path = http.MethodPost, r.path(r.home())
		case "status":
			path += "/status"
		}
		a, err := r.call(t.Context(), method, path+"?dryRun=All", contentJSON, encode(t, object), "")
		if err != nil && strings.Contains(err.Error(), "INTERNAL_ERROR") {
			return answer{code: http.StatusInternalServerError, body: []byte("the server panics")}, true
		}
		if err != nil {
			t.Fatal(err)
		}
		if a.code != http.StatusConflict || !strings.Contains(a.message(), "has been modified") || m.path == "/metadata/resourceVersion" {
			return a, true
		}
		// A loop of the server has written the object.
		fresh := r.want(t, http.StatusOK, http.MethodGet, r.itself(), nil)
		r.lock.Lock()
		r.stored = fresh
		r.lock.Unlock()
	}
	t.Fatalf("%s %s: changed by somebody ten times", r.itself(), m)
	return answer{}, false
}

// allocates matches an answer that names what a server chose at random.
var allocates = regexp.MustCompile(`10\.(96|200)\.\d+\.\d+|3\d\d\d\d`)

// allocated matches what servers choose at random.
var allocated = regexp.MustCompile(`"10\.(96|200)\.\d+\.\d+"|("(nodePort|healthCheckNodePort)":)3\d\d\d\d`)

// tokenVolume matches the name of the volume that pods get for their token.
var tokenVolume = regexp.MustCompile(`"kube-api-access-[a-z0-9]{5}"`)

// comparable returns an answer's object without what two servers cannot agree on.
func comparable(t *testing.T, object map[string]any) map[string]any {
	t.Helper()
	text := allocated.ReplaceAll(encode(t, object), []byte(`$2"allocated"`))
	text = tokenVolume.ReplaceAll(text, []byte(`"kube-api-access-x"`))
	object = decode(t, []byte(identifier.ReplaceAllString(string(text), "UID")))
	m, _ := object["metadata"].(map[string]any)
	for _, name := range []string{"uid", "resourceVersion", "creationTimestamp"} {
		if m[name] != nil && name != "uid" || m[name] != "other" {
			delete(m, name)
		}
	}
	if status, ok := object["status"].(map[string]any); ok {
		delete(status, "lastPhaseTransitionTime")
	}
	fields, _ := m["managedFields"].([]any)
	for _, f := range fields {
		delete(f.(map[string]any), "time")
	}
	// They are sorted by time, to the second.
	slices.SortFunc(fields, func(a, b any) int { return bytes.Compare(encode(t, a), encode(t, b)) })
	return momentless(object).(map[string]any)
}

// settle makes of text what two runs have in common.
func settle(text string) string {
	// Differences are printed with spaces that change at random, on purpose.
	text = strings.ReplaceAll(text, "\u00a0", " ")
	text = writtenAt.ReplaceAllString(text, `"time":"now"`)
	return identifier.ReplaceAllString(text, "UID")
}

var (
	identifier = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|SHA256=[0-9a-f]{64}`)
	writtenAt  = regexp.MustCompile(`"time":"[^"]*"`)
)

func (a answer) settled() string { return settle(fmt.Sprintf("%d %s", a.code, a.message())) }

// TestStockDiffers compares with stock what both make of every mutation of
// every sample. It takes minutes, and a kube-apiserver.
func TestStockDiffers(t *testing.T) {
	if *stockBinary == "" {
		t.Skip("compares with a kube-apiserver: name one with -stock")
	}
	c := Start(t)
	ours, stock := admin(t, c), startStock(t, c)
	report := must(os.Create(filepath.Join(t.ArtifactDir(), "differences.txt")))(t)
	defer report.Close()
	var lock sync.Mutex
	say := func(s *sample, what string, format string, args ...any) {
		lock.Lock()
		defer lock.Unlock()
		fmt.Fprintf(report, "== %s %s\n%s\n", s.name(), what, fmt.Sprintf(format, args...))
	}
	t.Run("kinds", func(t *testing.T) {
		for _, s := range readSamples(t, c) {
			if !strings.HasPrefix(s.name(), *stockKind) {
				continue
			}
			t.Run(s.name(), func(t *testing.T) {
				t.Parallel()
				compare(t, s, ours, stock, say)
			})
		}
	})
	t.Logf("differences are in %s", report.Name())
}

func compare(t *testing.T, s *sample, ours, stock caller, say func(*sample, string, string, ...any)) {
	mine, theirs := begin(t, ours, s), begin(t, stock, s)
	found := recorded{}
	differences, tried := 0, 0
	differ := func(what, format string, args ...any) {
		differences++
		say(s, what, format, args...)
	}
	object := must(published.New(s.gvk()))(t)
	for _, verb := range theirs.verbs() {
		if verb == "update" {
			found = compareStored(t, mine, theirs, found, differ)
		}
		messages := map[string]bool{}
		list := mutations(reflect.TypeOf(object).Elem(), theirs.base(t, verb), verb)
		answers := make([]struct {
			want, got answer
			placed    bool
		}, len(list))
		workqueue.ParallelizeUntil(t.Context(), 8, len(list), func(i int) {
			a := &answers[i]
			if i%*stockEvery != 0 || verb != "create" && strings.HasPrefix(list[i].path, "/metadata/re") {
				return
			}
			if a.want, a.placed = theirs.try(t, verb, list[i]); a.placed {
				a.got, _ = mine.try(t, verb, list[i])
			}
		})
		for i, m := range list {
			want, got := answers[i].want, answers[i].got
			if !answers[i].placed {
				continue
			}
			tried++
			if !sameFaults(want.settled(), got.settled()) {
				differ(verb+" "+m.String(), "stock %s\nours  %s", want.settled(), got.settled())
				if len(want.settled()+got.settled()) < 1500 && !allocates.MatchString(want.settled()+got.settled()) {
					found.Differs = append(found.Differs, difference{verb + " " + m.String(), want.settled(), got.settled()})
				}
				continue
			}
			if !reflect.DeepEqual(want.warnings, got.warnings) {
				differ(verb+" "+m.String(), "stock warns %q\nours  warns %q", want.warnings, got.warnings)
			} else if want.code < 300 && s.gvr.Resource != "customresourcedefinitions" {
				if a, b := comparable(t, decode(t, want.body)), comparable(t, decode(t, got.body)); !reflect.DeepEqual(a, b) {
					differ(verb+" "+m.String(), "%s", cmp.Diff(a, b))
				}
			}
			// What follows the first line is a picture of what is wrong.
			text := want.settled()
			message, _, _ := strings.Cut(values.ReplaceAllString(text, "#"), "\n")
			if strings.Contains(message, "updates may not change") {
				// Once for each field: creating says what else is wrong.
				parts := strings.Split(m.path, "/")
				message = strings.Join(parts[:min(3, len(parts))], "/")
			}
			if worthRecording(m, want.code, text) && !messages[message] {
				messages[message] = true
				found.Refused = append(found.Refused, refusal{verb + " " + m.String(), text})
			}
		}
	}
	t.Logf("%d of %d differ", differences, tried)
	if *record {
		text := must(yaml.Marshal(found))(t)
		if err := os.WriteFile(recordedPath(s), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// compareStored creates the sample on both servers.
func compareStored(t *testing.T, mine, theirs *trial, found recorded, differ func(string, string, ...any)) recorded {
	t.Helper()
	stored := theirs.create(t)
	found.Stored = comparable(t, stored)
	if diff := cmp.Diff(found.Stored, comparable(t, mine.create(t))); diff != "" {
		differ("created", "%s", diff)
	}
	found.Columns, found.Cells = theirs.table(t)
	columns, cells := mine.table(t)
	if diff := cmp.Diff(found.Columns, columns) + cmp.Diff(found.Cells, cells); diff != "" {
		differ("table", "%s", diff)
	}
	return found
}

// values matches what in a message differs from one odd value to the next.
var values = regexp.MustCompile(`"[^"]*"|-?\d+`)

// worthRecording leaves out what two runs would not agree on, or what another
// kind has already: pods stand for the templates of all that make pods.
func worthRecording(m mutation, code int, text string) bool {
	return code >= 400 && len(text) < 1500 && !strings.Contains(text, "UID") && !allocates.MatchString(text) && !strings.Contains(m.path, "/template/spec/")
}

// table is the sample's columns, and its cells without their ages.
func (r *trial) table(t *testing.T) (columns []map[string]any, cells []any) {
	t.Helper()
	a := must(r.call(t.Context(), http.MethodGet, r.itself()+"?includeObject=None", "", nil, "application/json;as=Table;v=v1;g=meta.k8s.io"))(t)
	var table struct {
		ColumnDefinitions []map[string]any
		Rows              []struct{ Cells []any }
	}
	if err := json.Unmarshal(a.body, &table); err != nil || len(table.Rows) != 1 {
		t.Fatalf("table of %s: %d rows, %s %v", r.itself(), len(table.Rows), a.message(), err)
	}
	// Ages, the moment of creation, and what the server's own controllers come to
	// write, differ from run to run.
	for i, cell := range table.Rows[0].Cells[:min(len(table.Rows[0].Cells), len(table.ColumnDefinitions))] {
		text, _ := cell.(string)
		if regexp.MustCompile(`^\d+(s|ms|m|h|d|y)?$|^\d{4}-\d\d-\d\dT`).MatchString(text) && table.ColumnDefinitions[i]["name"] != "Data" || regexp.MustCompile(`^10\.96\.`).MatchString(text) ||
			table.ColumnDefinitions[i]["name"] == "MissingPL" || table.ColumnDefinitions[i]["name"] == "Available" && text != "" {
			table.Rows[0].Cells[i] = "varies"
		}
		if identifier.MatchString(text) {
			table.Rows[0].Cells[i] = identifier.ReplaceAllString(text, "UID")
		}
		if table.ColumnDefinitions[i]["name"] == "Port(s)" {
			table.Rows[0].Cells[i] = regexp.MustCompile(`:3\d{4}/`).ReplaceAllString(text, ":varies/")
		}
	}
	return table.ColumnDefinitions, table.Rows[0].Cells
}

// warnsOfPods has stock warn of pods as our API server does unless told otherwise.
const warnsOfPods = `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {warn: baseline}
`

// startStock starts kube-apiserver on the tests' etcd, beside the tests' own.
func startStock(t *testing.T, c *Cluster) caller {
	t.Helper()
	port := must(freePorts(1))(t)[0]
	pki := hostconfig.PKI(c.Config.PKIDir)
	log := must(os.Create(filepath.Join(t.ArtifactDir(), "kube-apiserver.log")))(t)
	admission := filepath.Join(t.TempDir(), "admission.yaml")
	if err := os.WriteFile(admission, []byte(warnsOfPods), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(context.WithoutCancel(t.Context()), *stockBinary,
		fmt.Sprintf("--secure-port=%d", port), "--bind-address=127.0.0.1", "--advertise-address="+advertised,
		"--etcd-servers="+strings.Join(c.Config.Etcd, ","), "--etcd-prefix=/stock", "--etcd-cafile="+pki.EtcdCA(),
		"--etcd-certfile="+pki.Cert(hostconfig.PairAPIServerEtcd), "--etcd-keyfile="+pki.Key(hostconfig.PairAPIServerEtcd),
		"--client-ca-file="+pki.ClusterCA(), "--tls-cert-file="+pki.Cert(hostconfig.PairAPIServer), "--tls-private-key-file="+pki.Key(hostconfig.PairAPIServer),
		"--service-account-key-file="+pki.ServiceAccountPub(), "--service-account-signing-key-file="+pki.ServiceAccountKey(),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-cluster-ip-range="+c.Config.Cluster.ServiceCIDR,
		"--allow-privileged=true", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--admission-control-config-file="+admission,
	)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatalf("start kube-apiserver: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		if err := command.Process.Kill(); err == nil {
			<-ended
		}
	})
	config := rest.CopyConfig(c.Admin)
	config.Host = "https://" + loopback(port)
	stock := must(newCaller(config))(t)
	deadline := time.Now().Add(2 * time.Minute)
	for {
		a, err := stock.call(t.Context(), http.MethodGet, "/readyz", "", nil, "")
		if err == nil && a.code == http.StatusOK {
			return stock
		}
		select {
		case err = <-ended:
			err = errors.Join(errors.New("it ended"), err)
		case <-time.After(100 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		t.Fatalf("kube-apiserver is not ready (see %s): %v %s", log.Name(), err, bytes.TrimSpace(a.body))
	}
}
