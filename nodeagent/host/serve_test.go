package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// session is a hand served over pipes.
type session struct {
	t      *testing.T
	hand   *Hand
	in     *io.PipeWriter
	out    *bufio.Reader
	ended  chan error
	nextID int
}

func serve(t *testing.T, o Options) *session {
	t.Helper()
	if o.Init == nil {
		o.Init = newFakeInit()
	}
	inReader, in := io.Pipe()
	out, outWriter := io.Pipe()
	s := &session{t: t, hand: New(o), in: in, out: bufio.NewReader(out), ended: make(chan error, 1)}
	go func() {
		s.ended <- s.hand.Serve(context.Background(), inReader, outWriter)
		outWriter.Close()
	}()
	t.Cleanup(func() { in.Close(); out.Close() })
	hello := s.response()
	var greeting hostop.Hello
	if err := json.Unmarshal(hello.Result, &greeting); err != nil || hello.ID != 0 || !hello.Done || greeting.Protocol != hostop.Protocol || greeting.PID != os.Getpid() {
		t.Fatalf("greeting: %+v, %v", hello, err)
	}
	return s
}

func (s *session) response() hostop.Response {
	s.t.Helper()
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		s.t.Fatalf("read response: %v", err)
	}
	var r hostop.Response
	if err := json.Unmarshal(line, &r); err != nil {
		s.t.Fatalf("decode %q: %v", line, err)
	}
	return r
}

// ask sends a request and collects its events and its end.
func (s *session) ask(method hostop.Method, params any, ops hostop.Ops, body []byte) ([]hostop.Event, hostop.Response) {
	s.t.Helper()
	s.nextID++
	request := hostop.Request{ID: s.nextID, Method: method, Ops: ops, BodySize: int64(len(body))}
	if params != nil {
		raw, err := json.Marshal(params)
		if err != nil {
			s.t.Fatal(err)
		}
		request.Params = raw
	}
	line, err := json.Marshal(request)
	if err != nil {
		s.t.Fatal(err)
	}
	go func() { _, _ = s.in.Write(append(append(line, '\n'), body...)) }()
	return s.answer()
}

func (s *session) answer() ([]hostop.Event, hostop.Response) {
	s.t.Helper()
	var events []hostop.Event
	for {
		r := s.response()
		if r.ID != s.nextID {
			s.t.Fatalf("response to %d, want %d", r.ID, s.nextID)
		}
		if r.Done {
			return events, r
		}
		events = append(events, *r.Event)
	}
}

func states(events []hostop.Event) string {
	var list []string
	for _, e := range events {
		list = append(list, fmt.Sprintf("%d %s", e.Op, e.State))
	}
	return strings.Join(list, ", ")
}

func TestServeCheckAndApply(t *testing.T) {
	s := serve(t, Options{Root: t.TempDir()})
	ops := hostop.Ops{
		&hostop.Directory{Path: "/etc/clusterctl", Mode: 0o755},
		&hostop.File{Path: "/etc/clusterctl/a", Mode: 0o600, Content: []byte("a")},
	}
	if events, r := s.ask(hostop.MethodCheck, nil, ops, nil); states(events) != "0 differs, 1 differs" || r.Error != "" {
		t.Errorf("check: %s, %q", states(events), r.Error)
	}
	if events, r := s.ask(hostop.MethodApply, nil, ops, nil); states(events) != "0 running, 0 changed, 1 running, 1 changed" || r.Error != "" {
		t.Errorf("apply: %s, %q", states(events), r.Error)
	}
	if events, _ := s.ask(hostop.MethodCheck, nil, ops, nil); states(events) != "0 in-place, 1 in-place" {
		t.Errorf("check: %s", states(events))
	}
	// The first failure ends a request, and the session goes on.
	bad := hostop.Ops{ops[0], &hostop.Absent{Path: "/etc"}, ops[1]}
	events, r := s.ask(hostop.MethodApply, nil, bad, nil)
	if states(events) != "0 in-place, 1 running, 1 failed" || !strings.Contains(r.Error, "nothing at /etc: refuse to remove") {
		t.Errorf("apply: %s, %q", states(events), r.Error)
	}
	if _, r := s.ask("dance", nil, nil, nil); !strings.Contains(r.Error, `method "dance" is not known`) {
		t.Errorf("unknown method: %q", r.Error)
	}
	if _, r := s.ask(hostop.MethodPut, nil, nil, []byte("ignored body")); !strings.Contains(r.Error, "decode parameters of put") {
		t.Errorf("no parameters: %q", r.Error)
	}
	s.nextID++
	go fmt.Fprintf(s.in, "\n\n{\"id\":%d,\"method\":\"apply\",\"bodySize\":3,\"ops\":[{\"teleport\":{}}]}\nabc", s.nextID)
	if _, r := s.answer(); !strings.Contains(r.Error, `unknown kind "teleport"`) {
		t.Errorf("unknown operation: %q", r.Error)
	}
	if events, _ := s.ask(hostop.MethodCheck, nil, ops, nil); len(events) != 2 {
		t.Error("the session did not survive faults")
	}
	s.in.Close()
	if err := <-s.ended; err != nil {
		t.Errorf("a clean end gave %v", err)
	}
}

func TestServeBlobs(t *testing.T) {
	root := t.TempDir()
	s := serve(t, Options{Root: root})
	content := bytes.Repeat([]byte("#!binary\n"), 50_000)
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed := encoder.EncodeAll(content, nil)
	packed, plain := sha256.Sum256(compressed), sha256.Sum256(content)
	digest := "sha256:" + hex.EncodeToString(packed[:])
	other := "sha256:" + strings.Repeat("0", 64)
	op := &hostop.Blob{Path: hostconfig.LibDir + "/v1/runc", Mode: 0o755, Digest: digest, Size: int64(len(compressed)), SHA256: hex.EncodeToString(plain[:])}

	if _, r := s.ask(hostop.MethodPut, hostop.PutParams{Digest: other}, nil, compressed); !strings.Contains(r.Error, "what arrived is "+digest) {
		t.Errorf("another blob than announced: %q", r.Error)
	}
	if _, r := s.ask(hostop.MethodPut, hostop.PutParams{Digest: digest}, nil, compressed); r.Error != "" {
		t.Fatal(r.Error)
	}
	var missing []string
	if _, r := s.ask(hostop.MethodHave, []string{digest, other}, nil, nil); json.Unmarshal(r.Result, &missing) != nil || len(missing) != 1 || missing[0] != other {
		t.Errorf("have: %s %q", r.Result, r.Error)
	}
	if events, r := s.ask(hostop.MethodApply, nil, hostop.Ops{op}, nil); states(events) != "0 running, 0 changed" {
		t.Fatalf("apply: %s %q", states(events), r.Error)
	}
	wantContent(t, root+op.Path, string(content))
	wantMode(t, root+op.Path, 0o755)
	wantAbsent(t, root+blobDir+"/"+hex.EncodeToString(packed[:]))
	if events, _ := s.ask(hostop.MethodApply, nil, hostop.Ops{op}, nil); states(events) != "0 in-place" {
		t.Errorf("again: %s", states(events))
	}
	// A change of the file shows, cached hash or not.
	write(t, root+op.Path, "tampered", 0o755)
	if events, _ := s.ask(hostop.MethodCheck, nil, hostop.Ops{op}, nil); states(events) != "0 differs" {
		t.Errorf("tampered: %s", states(events))
	}
	// A blob whose content is not what the plan says is not put in place.
	if _, r := s.ask(hostop.MethodPut, hostop.PutParams{Digest: digest}, nil, compressed); r.Error != "" {
		t.Fatal(r.Error)
	}
	wrong := *op
	wrong.SHA256 = strings.Repeat("1", 64)
	if _, r := s.ask(hostop.MethodApply, nil, hostop.Ops{&wrong}, nil); !strings.Contains(r.Error, "unpacked content is") {
		t.Errorf("wrong content: %q", r.Error)
	}
	wantContent(t, root+op.Path, "tampered")
}

func TestServeEndsMidway(t *testing.T) {
	init := newFakeInit()
	begun, goOn := make(chan bool), make(chan bool)
	init.start = func(string) error { begun <- true; <-goOn; return nil }
	root := t.TempDir()
	s := serve(t, Options{Root: root, Init: init})
	raw, err := json.Marshal(hostop.Request{ID: 1, Method: hostop.MethodApply, Ops: hostop.Ops{
		&hostop.Service{Name: hostconfig.UnitEtcd, Fingerprint: "1"},
		&hostop.File{Path: "/etc/clusterctl/later", Mode: 0o600},
	}})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = s.in.Write(append(raw, '\n')) }()
	s.response() // running
	<-begun
	s.in.Close() // the workstation is gone
	goOn <- true
	events := states([]hostop.Event{*s.response().Event})
	if r := s.response(); events != "0 changed" || !strings.Contains(r.Error, "stopped after 1 of 2 operations: standard input ended") {
		t.Errorf("%s, then %+v", events, r)
	}
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	wantAbsent(t, root+"/etc/clusterctl/later")
	// What was begun is done, and recorded as such.
	differs, err := New(Options{Root: root, Init: init}).Check(t.Context(), &hostop.Service{Name: hostconfig.UnitEtcd, Fingerprint: "1"})
	if err != nil || differs != "" {
		t.Errorf("afterwards: %q, %v", differs, err)
	}
}

func TestServeBrokenInput(t *testing.T) {
	for _, c := range []struct{ name, input, want string }{
		{"no request", "hello\n", "read request"},
		{"half a line", `{"id":1`, "unexpected EOF"},
		{"no id", `{"method":"facts"}` + "\n", "id 0"},
		{"negative body", `{"id":1,"bodySize":-1}` + "\n", "-1 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, Options{Root: t.TempDir()})
			go func() { _, _ = io.WriteString(s.in, c.input); s.in.Close() }()
			if err := <-s.ended; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("half a body", func(t *testing.T) {
		root := t.TempDir()
		s := serve(t, Options{Root: root})
		s.nextID = 1
		go func() {
			fmt.Fprintf(s.in, `{"id":1,"method":"put","params":{"digest":"sha256:%064d"},"bodySize":100}`+"\nhalf", 0)
			s.in.Close()
		}()
		if _, r := s.answer(); !strings.Contains(r.Error, "unexpected EOF") {
			t.Errorf("got %q", r.Error)
		}
		<-s.ended
		wantAbsent(t, root+blobDir+fmt.Sprintf("/.%064d.clusterctl-new", 0))
	})
}

func TestRunLock(t *testing.T) {
	root := t.TempDir()
	first, second := serve(t, Options{Root: root}), serve(t, Options{Root: root})
	for range 2 { // taking it twice in one session is no conflict
		if _, r := first.ask(hostop.MethodLock, hostop.LockParams{Holder: "ann@desk 7, up"}, nil, nil); r.Error != "" {
			t.Fatal(r.Error)
		}
	}
	if _, r := second.ask(hostop.MethodLock, hostop.LockParams{Holder: "bob"}, nil, nil); !strings.Contains(r.Error, "worked on by ann@desk 7, up, since 2") {
		t.Errorf("got %q", r.Error)
	}
	first.in.Close()
	<-first.ended
	if _, r := second.ask(hostop.MethodLock, hostop.LockParams{Holder: "bob"}, nil, nil); r.Error != "" {
		t.Errorf("after the holder ended: %q", r.Error)
	}
}

func TestListenAndDial(t *testing.T) {
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := taken.Addr().(*net.TCPAddr).Port
	free, udp, closed := freePort(t), freePort(t), freePort(t)
	s := serve(t, Options{Root: t.TempDir()})
	_, r := s.ask(hostop.MethodListen, hostop.ListenParams{TCP: []int{busy, free}, UDP: []int{udp}}, nil, nil)
	if string(r.Result) != fmt.Sprintf(`["tcp %d"]`, busy) {
		t.Fatalf("listen: %s %q", r.Result, r.Error)
	}
	address := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	dial := hostop.DialParams{TCP: []string{address(free), address(closed)}, UDP: []string{address(udp)}, TimeoutMillis: 30000}
	for range 2 { // dialing leaves the ports open
		_, r = s.ask(hostop.MethodDial, dial, nil, nil)
		if string(r.Result) != fmt.Sprintf(`{"%s":"connection refused"}`, address(closed)) {
			t.Errorf("dial: %s %q", r.Result, r.Error)
		}
	}
	s.ask(hostop.MethodHave, []string{}, nil, nil)
	dial.TimeoutMillis = 200
	_, r = s.ask(hostop.MethodDial, dial, nil, nil)
	var faults map[string]string
	if err := json.Unmarshal(r.Result, &faults); err != nil || len(faults) != 3 {
		t.Errorf("after another request: %s", r.Result)
	}
}

func TestFacts(t *testing.T) {
	h := New(Options{Init: newFakeInit()})
	h.init = noInit{} // the machine of the test may have units of its own
	f, err := h.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hostname, _ := os.Hostname()
	if f.Hostname != hostname || f.CPUs < 1 || f.Memory < 1<<20 || f.Kernel == "" || f.Cgroup.Version < 1 || len(f.Disks) != 3 || f.Disks["/etc"].Total == 0 || f.Root != (os.Geteuid() == 0) {
		t.Errorf("facts: %+v", f)
	}
}

func TestFactsOfAHost(t *testing.T) {
	root := t.TempDir()
	for path, content := range map[string]string{
		"/etc/os-release":                             "ID=alpine\nVERSION_ID=\"3.20\"\nPRETTY_NAME='Alpine'\n",
		"/etc/machine-id":                             "abc\n",
		"/etc/resolv.conf":                            "# x\nnameserver 10.0.0.53\nsearch a\nnameserver fd00::53\n",
		"/proc/meminfo":                               "MemTotal:       2048 kB\nMemFree: 1 kB\n",
		"/proc/swaps":                                 "Filename Type Size Used Priority\n/swap file 1024 0 -2\n",
		"/proc/self/status":                           "Name:\tx\nCapBnd:\t0000000001000000\n",
		"/proc/net/tcp":                               "sl local rem st\n 0: 0100007F:1F90 00000000:0000 0A 0 0 0 0 0 777 1\n 1: 0100007F:1F91 00000000:0000 01 0 0 0 0 0 778 1\n",
		"/proc/net/udp6":                              "sl local rem st\n 0: 00000000000000000000000000000000:2118 0:0 07 0 0 0 0 0 779 1\n",
		"/proc/42/comm":                               "nginx\n",
		"/sys/fs/cgroup/cgroup.controllers":           "cpu memory pids\n",
		"/proc/sys/kernel/osrelease":                  "6.1\n",
		"/lib/modules/6.1/modules.dep":                "kernel/fs/overlayfs/overlay.ko.xz:\nkernel/net/br_netfilter.ko:\n",
		"/lib/modules/6.1/modules.builtin":            "kernel/net/bridge/bridge.ko\nkernel/drivers/net/veth.ko\n",
		"/proc/modules":                               "nf_conntrack 1 0 - Live 0\n",
		"/var/lib/clusterctl/etcd/member/wal/0.wal":   "",
		"/etc/systemd/system/clusterctl-etcd.service": "",
		"/usr/sbin/iptables":                          "",
		"/sbin/ip6tables":                             "",
	} {
		write(t, root+path, content, 0o644)
	}
	mkdir(t, root+"/proc/42/fd")
	mkdir(t, root+hostconfig.LibDir)
	for link, to := range map[string]string{"/proc/42/fd/3": "socket:[777]", hostconfig.BinDir: "v1.2"} {
		if err := os.Symlink(to, root+link); err != nil {
			t.Fatal(err)
		}
	}
	f, err := New(Options{Root: root, Init: newFakeInit()}).Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for what, same := range map[string]bool{
		"os":         f.OS == hostop.OS{ID: "alpine", Version: "3.20", Name: "Alpine"},
		"machine id": f.MachineID == "abc",
		"resolvers":  fmt.Sprint(f.Resolvers) == "[10.0.0.53 fd00::53]",
		"memory":     f.Memory == 2<<20 && f.Swap == 1<<20,
		"capability": f.SysResource,
		"cgroup":     f.Cgroup.Version == 2 && fmt.Sprint(f.Cgroup.Controllers) == "[cpu memory pids]",
		"listening":  fmt.Sprint(f.Listening) == "[{tcp 127.0.0.1:8080 nginx} {udp [::]:8472 }]",
		"modules":    fmt.Sprint(f.ModulesAbsent) == "[vxlan nf_tables]",
		"iptables":   f.IPTables,
		"installed":  f.Installed == "v1.2",
		"etcd":       f.EtcdData,
		"services":   fmt.Sprint(f.Services) == "map[clusterctl-etcd:inactive]",
	} {
		if !same {
			t.Errorf("%s: %+v", what, f)
		}
	}
}

// FuzzReadRequest feeds the decoder anything: it may refuse, but must neither
// panic nor read past what a request says.
func FuzzReadRequest(f *testing.F) {
	for _, seed := range []string{
		`{"id":1,"method":"facts"}` + "\n",
		`{"id":2,"method":"put","params":{"digest":"x"},"bodySize":3}` + "\nabc" + `{"id":3,"method":"facts"}` + "\n",
		`{"id":4,"method":"apply","ops":[{"file":{"path":"/a","mode":384,"content":"eA=="}}]}` + "\n",
		`{"id":5,"ops":[{"nothing":{}}]}` + "\n", "\n\n", "{", `{"id":1,"bodySize":9223372036854775807}` + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		r := bufio.NewReader(bytes.NewReader(input))
		for {
			request, err := readRequest(r)
			if err != nil {
				if errors.Is(err, io.EOF) && r.Buffered() > 0 {
					t.Errorf("ended with %d bytes left", r.Buffered())
				}
				return
			}
			if request.ID < 1 || request.BodySize < 0 {
				t.Fatalf("accepted id %d with %d bytes", request.ID, request.BodySize)
			}
			n, _ := io.Copy(io.Discard, request.body)
			if n > request.BodySize {
				t.Fatalf("read %d bytes of a body of %d", n, request.BodySize)
			}
			select {
			case <-request.body.finished:
			default:
				t.Fatal("a body that was read is not finished")
			}
		}
	})
}
