package main

import (
	"archive/tar"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// reportJSON is the part of ginkgo's report that matters: one test of each
// outcome, some that were cut short or filtered out and one node that is no test.
const reportJSON = `[{"SpecReports":[
 {"ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeType":"It","LeafNodeLabels":["Conformance"],"LeafNodeText":"should start [Conformance]","State":"passed","NumAttempts":1,"RunTime":1500000000},
 {"ContainerHierarchyTexts":["[sig-apps] Job"],"LeafNodeType":"It","LeafNodeLabels":["Conformance"],"LeafNodeText":"should end [Conformance]","State":"failed","NumAttempts":1,"Failure":{"Message":"no such\n  resource"}},
 {"ContainerHierarchyTexts":["[sig-apps] Job"],"LeafNodeType":"It","LeafNodeLabels":["Conformance"],"LeafNodeText":"should stop [Conformance]","State":"timedout","NumAttempts":1},
 {"ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeType":"It","LeafNodeLabels":["Conformance"],"LeafNodeText":"should hop [Conformance]","State":"skipped","NumAttempts":1,"Failure":{"Message":"needs two nodes"}},
 {"ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeType":"It","LeafNodeLabels":["Conformance"],"LeafNodeText":"was not finished","State":"timedout","NumAttempts":1,"Failure":{"Message":"A suite timeout occurred"}},
 {"ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeType":"It","LeafNodeLabels":["Conformance"],"LeafNodeText":"was interrupted","State":"interrupted","NumAttempts":1},
 {"ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeType":"It","LeafNodeLabels":["Conformance"],"LeafNodeText":"was filtered out","State":"skipped","NumAttempts":0},
 {"LeafNodeType":"SynchronizedBeforeSuite","State":"passed","NumAttempts":1}
]}]`

func readSample(t *testing.T) (map[string]result, map[string]int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), reportFile)
	if err := os.WriteFile(path, []byte(reportJSON), 0o600); err != nil {
		t.Fatal(err)
	}
	tests, suite, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	return tests, suite
}

func TestReadReport(t *testing.T) {
	tests, suite := readSample(t)
	want := map[string]result{
		"[sig-node] Pods should start [Conformance]": {State: passed},
		"[sig-apps] Job should end [Conformance]":    {State: failed, Message: "no such resource"},
		"[sig-apps] Job should stop [Conformance]":   {State: failed},
		"[sig-node] Pods should hop [Conformance]":   {State: skipped, Message: "needs two nodes"},
	}
	if len(tests) != len(want) {
		t.Errorf("report holds %d tests, want %d: %v", len(tests), len(want), tests)
	}
	for name, w := range want {
		if got := tests[name]; got.State != w.State || got.Message != w.Message {
			t.Errorf("%s: %s %q, want %s %q", name, got.State, got.Message, w.State, w.Message)
		}
	}
	if suite["sig-node"] != 5 || suite["sig-apps"] != 2 {
		t.Errorf("the suite holds %v, want 5 tests of sig-node and 2 of sig-apps", suite)
	}
	if got := tests["[sig-node] Pods should start [Conformance]"].Seconds; got != 1.5 {
		t.Errorf("took %v s, want 1.5", got)
	}
}

func TestPrint(t *testing.T) {
	var out strings.Builder
	tests, _ := readSample(t)
	if got := print(&out, tests); got != 2 {
		t.Errorf("%d failed, want 2", got)
	}
	for _, want := range []string{
		"FAILED [sig-apps] Job should end [Conformance]\n       no such resource\n",
		"sig-apps       0       2        0\n", "sig-node       1       0        1\n", "all       1       2        1\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed\n%s\nwant in it\n%s", out.String(), want)
		}
	}
}

func TestDocument(t *testing.T) {
	dir := t.TempDir()
	doc, exceptions := filepath.Join(dir, "conformance.md"), filepath.Join(dir, "exceptions.yaml")
	for path, content := range map[string]string{
		doc:        "# Head\n" + tableStart + "\nold\n" + tableEnd + "\ntail\n",
		exceptions: "- tests: Job should end\n  cause: no Jobs yet\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	earlier, err := openResults(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	tests, suite := readSample(t)
	for name, r := range tests {
		r.Ended = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		tests[name] = r
	}
	earlier.keep("abc", "make conformance FOCUS='a|b' PROCS=4", tests, suite)
	if err := earlier.save(); err != nil {
		t.Fatal(err)
	}
	kept, err := openResults(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.document(doc, exceptions); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := "# Head\n" + tableStart + `

| sig | passed | failed | skipped | of |
| --- | ---: | ---: | ---: | ---: |
| sig-apps | 0 | 2 | 0 | 2 |
| sig-node | 1 | 0 | 1 | 5 |
| all | 1 | 2 | 1 | 7 |

Each test counts as it last ran:

| date | commit | command | tests |
| --- | --- | --- | ---: |
| 2026-01-02 | abc | ` + "`make conformance FOCUS='a\\|b' PROCS=4`" + ` | 4 |

### Exceptions

**no Jobs yet** (1)

- [sig-apps] Job should end

**Not looked into yet** (1)

- [sig-apps] Job should stop

` + tableEnd + "\ntail\n"
	if string(got) != want {
		t.Errorf("document is\n%s\nwant\n%s", got, want)
	}

	if err := os.WriteFile(exceptions, []byte("- tests: '('\n  cause: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := kept.document(doc, exceptions); err == nil {
		t.Error("a broken expression among the exceptions was taken")
	}
	if err := os.WriteFile(doc, []byte("no markers"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exceptions, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := kept.document(doc, exceptions); err == nil || !strings.Contains(err.Error(), "does not hold the lines") {
		t.Errorf("document without markers: %v, want a refusal", err)
	}
}

func TestClosure(t *testing.T) {
	got := closure("curl\n  Depends: libc6\n  Depends: <awk>\n    mawk\nlibc6\n<awk>\ndebconf\ncurl\nmawk\n")
	if want := []string{"curl", "libc6", "mawk"}; !slices.Equal(got, want) {
		t.Errorf("closure is %q, want %q", got, want)
	}
}

// Every exception that the repository names has to be readable.
func TestExceptions(t *testing.T) {
	if _, err := readExceptions("../exceptions.yaml"); err != nil {
		t.Error(err)
	}
}

func TestImageList(t *testing.T) {
	archives, names := map[string]bool{}, map[string]bool{}
	for _, i := range imageList(options{cache: "c", root: "r"}, "k", "pause") {
		if archives[i.archive] {
			t.Errorf("two images are written to %s", i.archive)
		}
		archives[i.archive] = true
		for _, n := range i.names {
			if names[n] {
				t.Errorf("%s is made twice", n)
			}
			names[n] = true
		}
		for _, f := range i.put {
			if strings.HasPrefix(f.to, "bin/") || strings.HasPrefix(f.to, "sbin/") || strings.HasPrefix(f.to, "lib/") || strings.HasPrefix(f.to, "/") {
				t.Errorf("%s: %s would replace a link of the merged tree", i.archive, f.to)
			}
		}
	}
	if len(names) != 14 {
		t.Errorf("%d names, want 14", len(names))
	}
}

func TestImageArchive(t *testing.T) {
	name := filepath.Join(t.TempDir(), "i.tar")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(file)
	for path, content := range map[string]string{
		"blobs/sha256/aa": "a layer", "blobs/sha256/bb": `{"layers":[]}`,
		"index.json": `{"manifests":[{"mediaType":"m/t","digest":"sha256:bb","annotations":{"io.containerd.image.name":"registry.k8s.io/a/b:1"}}]}`,
	} {
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	a, err := openArchive(name)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		code       int
		body, kind string
	}{
		"/v2/a/b/manifests/1":         {200, `{"layers":[]}`, "m/t"},
		"/v2/a/b/manifests/sha256:bb": {200, `{"layers":[]}`, "m/t"},
		"/v2/a/b/blobs/sha256:aa":     {200, "a layer", "application/octet-stream"},
		"/v2/a/b/manifests/2":         {404, "404 page not found\n", "text/plain; charset=utf-8"},
		"/v2/":                        {404, "404 page not found\n", "text/plain; charset=utf-8"},
	} {
		got := httptest.NewRecorder()
		a.ServeHTTP(got, httptest.NewRequest("GET", path, nil))
		if got.Code != want.code || got.Body.String() != want.body || got.Header().Get("Content-Type") != want.kind {
			t.Errorf("%s: %d %q %s, want %v", path, got.Code, got.Body, got.Header().Get("Content-Type"), want)
		}
	}
}

func TestCommand(t *testing.T) {
	for want, o := range map[string]options{
		"make conformance PROCS=4": {labels: conformance, procs: 4},
		"make conformance LABELS='sig-apps && !Conformance' FOCUS='Job' SKIP='Slow' PROCS=2": {
			labels: "sig-apps && !Conformance", focus: "Job", skip: "Slow", procs: 2},
	} {
		if got := o.command(); got != want {
			t.Errorf("command %s, want %s", got, want)
		}
	}
}

func TestAbridged(t *testing.T) {
	short := "make conformance FOCUS='" + strings.Repeat("a", 250) + "' PROCS=6"
	if got := abridged(short); got != short {
		t.Errorf("a command of %d characters became %s", len(short), got)
	}
	long := "make conformance FOCUS='" + strings.Repeat("é", 9000) + "' PROCS=6"
	if got := abridged(long); len([]rune(got)) > 310 || !strings.HasPrefix(got, "make conformance FOCUS='é") || !strings.HasSuffix(got, "é' PROCS=6") {
		t.Errorf("a long command became %s", got)
	}
}
