package remote

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"clusterctl/bootstrap/ssh"
	"clusterctl/bootstrap/ssh/sshtest"
	"clusterctl/hostop"
)

// The hand of these tests is a script: it greets, echoes requests' methods as
// events, and does what a few methods stand for.
const handScript = `#!/bin/sh
[ "$1 $2" = "host serve" ] || exit 64
echo '{"id":0,"done":true,"result":{"protocol":1,"version":"test","pid":1}}'
while IFS= read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
  '') ;;
  *'"method":"facts"'*)
    echo "{\"id\":$id,\"event\":{\"op\":-1,\"state\":\"running\"}}"
    echo "{\"id\":$id,\"done\":true,\"result\":{\"hostname\":\"a\"}}" ;;
  *'"method":"put"'*)
    n=$(printf %s "$line" | sed -n 's/.*"bodySize":\([0-9]*\).*/\1/p')
    sum=$(head -c "$n" | sha256sum | cut -d " " -f 1)
    echo "{\"id\":$id,\"done\":true,\"result\":\"$sum\"}" ;;
  *'"method":"lock"'*) echo "{\"id\":$id,\"done\":true,\"error\":\"held by another\"}" ;;
  *'"method":"reset"'*)
    echo "{\"id\":$id,\"event\":{\"op\":-1,\"state\":\"running\"}}"
    while IFS= read -r line; do :; done; echo safe > "$MARK" ; exit 0 ;;
  *'"method":"journal"'*) echo "it hurts" >&2; exit 9 ;;
  esac
done
`

// world is a host with an SSH server, and a way to reach it.
type world struct {
	server *sshtest.Server
	dialer *ssh.Dialer
	target ssh.Target
	hand   *Hand
	dir    string
	mark   string
	packed int // how often the hand was compressed, that is uploaded
}

func newWorld(t *testing.T, env ...string) *world {
	t.Helper()
	home := t.TempDir()
	w := &world{dir: t.TempDir(), mark: filepath.Join(t.TempDir(), "mark")}
	signer, _ := key(t, filepath.Join(home, "id"))
	hostKey, _ := key(t, filepath.Join(home, "host"))
	w.server = sshtest.New(t, sshtest.Options{HostKeys: []xssh.Signer{hostKey}, User: []xssh.PublicKey{signer.PublicKey()}, Env: append(env, "MARK="+w.mark)})
	t.Setenv("SSH_AUTH_SOCK", "")
	dialer, err := ssh.NewDialer(ssh.Options{Home: home, ConfigFiles: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialer.Close() })
	w.dialer = dialer
	host, port, _ := net.SplitHostPort(w.server.Addr)
	n, _ := strconv.Atoi(port)
	w.target = ssh.Target{Host: host, Port: n, User: "tester", Keys: []string{filepath.Join(home, "id")}, Pinned: []string{xssh.FingerprintSHA256(hostKey.PublicKey())}}
	w.setHand(handScript)
	return w
}

func (w *world) setHand(script string) {
	sum := sha256.Sum256([]byte(script))
	w.hand = &Hand{
		Sums:   map[string]string{runtime.GOARCH: hex.EncodeToString(sum[:])},
		places: &places{installed: w.dir + "/lib", run: w.dir + "/run", uploads: []string{w.dir + "/run/hand-", w.dir + "/tmp-hand-"}},
	}
	w.hand.Gzip = func(string) ([]byte, error) {
		w.packed++
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := io.WriteString(z, script); err != nil {
			return nil, err
		}
		err := z.Close()
		return b.Bytes(), err
	}
}

func (w *world) connect(t *testing.T) *Remote {
	t.Helper()
	r, err := Connect(t.Context(), w.dialer, w.target, w.hand)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func key(t *testing.T, path string) (xssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := xssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := xssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, path
}

func TestConnectUploadsOnce(t *testing.T) {
	w := newWorld(t)
	first := w.connect(t)
	if w.packed != 1 {
		t.Errorf("packed %d times", w.packed)
	}
	var events int
	result, err := first.Call(t.Context(), hostop.Request{Method: hostop.MethodFacts}, nil, func(hostop.Event) { events++ })
	if err != nil || !strings.Contains(string(result), `"hostname":"a"`) || events != 1 {
		t.Fatalf("facts: %s, %d events, %v", result, events, err)
	}
	directories, _ := filepath.Glob(w.dir + "/run/hand-*")
	if len(directories) != 1 {
		t.Fatalf("hands: %v", directories)
	}
	if info, err := os.Stat(directories[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("hand's directory: %v, %v", info.Mode(), err)
	}

	upload := w.hand.Gzip
	w.hand.Gzip = func(string) ([]byte, error) { return nil, errors.New("uploaded again") }
	w.hand.packed = nil
	w.connect(t)

	// One that was tampered with is replaced.
	w.hand.Gzip = upload
	if err := os.WriteFile(directories[0]+"/nodeagent", []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.connect(t)
	if w.packed != 2 {
		t.Errorf("packed %d times", w.packed)
	}

	// The installed one is used when it is the right one.
	if err := os.MkdirAll(w.dir+"/lib", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(directories[0]+"/nodeagent", w.dir+"/lib/nodeagent"); err != nil {
		t.Fatal(err)
	}
	w.hand.Gzip = func(string) ([]byte, error) { return nil, errors.New("uploaded again") }
	w.hand.packed = nil
	w.connect(t)
}

func TestConnectFallsBackFromNoexec(t *testing.T) {
	w := newWorld(t)
	// A file in the way stands for a file system that cannot hold programs.
	sum := w.hand.Sums[runtime.GOARCH]
	if err := os.MkdirAll(w.dir+"/run", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.dir+"/run/hand-"+sum[:12], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.connect(t)
	if _, err := os.Stat(w.dir + "/tmp-hand-" + sum[:12] + "/nodeagent"); err != nil {
		t.Error(err)
	}
}

func TestConnectFailures(t *testing.T) {
	for _, c := range []struct {
		name, hand, want string
		change           func(*Hand)
	}{
		{name: "another architecture", hand: handScript, want: "the host's architecture is", change: func(h *Hand) { h.Sums = map[string]string{"s390x": "0"} }},
		{name: "damaged on the way", hand: handScript, want: "what arrived has checksum", change: func(h *Hand) { h.Sums[runtime.GOARCH] = strings.Repeat("0", 64) }},
		{name: "hand that dies", hand: "#!/bin/sh\necho no libc >&2\nexit 7\n", want: "exit status 7: no libc"},
		{name: "hand of another time", hand: "#!/bin/sh\necho '{\"id\":0,\"done\":true,\"result\":{\"protocol\":99}}'\ncat >/dev/null\n", want: "speaks protocol 99"},
		{name: "no hand at all", hand: "#!/bin/sh\necho Welcome\ncat >/dev/null\n", want: "something else than a response"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.setHand(c.hand)
			if c.change != nil {
				c.change(w.hand)
			}
			r, err := Connect(t.Context(), w.dialer, w.target, w.hand)
			if err == nil {
				r.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCalls(t *testing.T) {
	w := newWorld(t)
	r := w.connect(t)

	blob := make([]byte, 3<<20)
	_, _ = rand.Read(blob)
	want := sha256.Sum256(blob)
	for range 2 {
		result, err := r.Call(t.Context(), hostop.Request{Method: hostop.MethodPut, BodySize: int64(len(blob))}, bytes.NewReader(blob), nil)
		if err != nil || string(result) != `"`+hex.EncodeToString(want[:])+`"` {
			t.Fatalf("put: %s, %v", result, err)
		}
	}
	if _, err := r.Call(t.Context(), hostop.Request{Method: hostop.MethodLock}, nil, nil); err == nil || err.Error() != "held by another" {
		t.Errorf("lock: %v", err)
	}
	// Calls from several goroutines queue up.
	errs := make(chan error)
	for range 5 {
		go func() {
			_, err := r.Call(t.Context(), hostop.Request{Method: hostop.MethodFacts}, nil, nil)
			errs <- err
		}()
	}
	for range 5 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	_, err := r.Call(t.Context(), hostop.Request{Method: hostop.MethodJournal}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "exit status 9") || !strings.Contains(err.Error(), "it hurts") {
		t.Errorf("a hand that died: %v", err)
	}
	if _, err := r.Call(t.Context(), hostop.Request{Method: hostop.MethodFacts}, nil, nil); err == nil {
		t.Error("a dead hand answered")
	}
}

func TestCancelLetsTheHandFinish(t *testing.T) {
	w := newWorld(t)
	r := w.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := func(hostop.Event) { cancel() }
	if _, err := r.Call(ctx, hostop.Request{Method: hostop.MethodReset}, nil, begun); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if raw, err := os.ReadFile(w.mark); err != nil || string(raw) != "safe\n" {
		t.Errorf("the hand did not reach its safe point: %q, %v", raw, err)
	}
}

func TestConnectionBreaks(t *testing.T) {
	w := newWorld(t)
	r := w.connect(t)
	begun := func(hostop.Event) { w.server.Cut() }
	_, err := r.Call(t.Context(), hostop.Request{Method: hostop.MethodReset}, nil, begun)
	if err == nil || !strings.Contains(err.Error(), "lost") || !strings.Contains(err.Error(), `"reset"`) {
		t.Errorf("got %v", err)
	}
	select {
	case <-r.Done():
	case <-time.After(time.Minute):
		t.Error("Done stays open")
	}
}

func TestShortBody(t *testing.T) {
	w := newWorld(t)
	r := w.connect(t)
	_, err := r.Call(t.Context(), hostop.Request{Method: hostop.MethodPut, BodySize: 10}, strings.NewReader("four"), nil)
	if err == nil || !strings.Contains(err.Error(), "has 4 of 10 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestDialHost(t *testing.T) {
	w := newWorld(t)
	r := w.connect(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			fmt.Fprintln(conn, "api")
			conn.Close()
		}
	}()
	conn, err := r.DialHost(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, _ := bufio.NewReader(conn).ReadString('\n'); line != "api\n" {
		t.Errorf("got %q", line)
	}
}

func TestSignsOfLife(t *testing.T) {
	// Both sides agree on what keeps a hand alive.
	if signEvery*3 > hostop.SilenceLimit {
		t.Errorf("a sign every %s is too rare for a limit of %s", signEvery, hostop.SilenceLimit)
	}
	if raw, err := json.Marshal(hostop.Request{ID: 1, Method: hostop.MethodFacts}); err != nil || bytes.ContainsRune(raw, '\n') {
		t.Errorf("a request is not one line: %s, %v", raw, err)
	}
}
