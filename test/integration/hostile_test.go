package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestHostileBodies sends what no server should have to read. Each is refused
// with a status that says why, and the server goes on.
func TestHostileBodies(t *testing.T) {
	c := Start(t)
	call, ns := admin(t, c), c.namespace(t)
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	labels := bytes.NewBufferString(`{"metadata":{"name":"labels","labels":{"a":"1"`)
	for i := range 100_000 {
		fmt.Fprintf(labels, `,"label-%06d":"v"`, i)
	}
	labels.WriteString(`}}}`)
	deep := func(open, close string, n int) string { return strings.Repeat(open, n) + strings.Repeat(close, n) }
	for _, test := range []struct {
		name, path, content, body string
		code                      int
		message                   string
	}{
		{"4 MB", maps, contentJSON, `{"metadata":{"name":"big"},"data":{"k":"` + strings.Repeat("x", 4<<20) + `"}}`, http.StatusRequestEntityTooLarge, "limit is 3145728"},
		{"3 MB less a little", maps, contentJSON, `{"metadata":{"name":"big"},"data":{"k":"` + strings.Repeat("x", 3<<20-200) + `"}}`, http.StatusUnprocessableEntity, "may not be more than 1048576 bytes"},
		{"100,000 labels", maps, contentJSON, labels.String(), 0, ""},
		{"10,001 lists in JSON", maps, contentJSON, `{"metadata":{"name":"deep"},"data":` + deep("[", "]", 10_001) + `}`, http.StatusBadRequest, ""},
		{"10,001 objects in JSON", maps, contentJSON, `{"metadata":{"name":"deep"},"x":` + strings.Repeat(`{"a":`, 10_001) + "1" + strings.Repeat("}", 10_001) + `}`, http.StatusBadRequest, ""},
		{"10,001 lists in YAML", maps, contentYAML, "metadata: {name: deep}\ndata: " + deep("[", "]", 10_001), http.StatusBadRequest, ""},
		{"YAML that multiplies", maps, contentYAML, "a: &a [x,x,x,x,x,x,x,x,x]\n" + multiply(), http.StatusBadRequest, ""},
		{"1,000,000 open brackets", maps, contentJSON, strings.Repeat("[", 1_000_000), http.StatusBadRequest, ""},
		{"an ending too early", maps, contentJSON, `{"metadata":{"name":"e"`, http.StatusBadRequest, ""},
		{"another type", maps, contentJSON, `{"metadata":{"name":7}}`, http.StatusBadRequest, "cannot unmarshal number"},
		{"null", maps, contentJSON, `null`, http.StatusUnprocessableEntity, "name or generateName is required"},
		{"a list", maps, contentJSON, `[]`, http.StatusBadRequest, ""},
		{"invalid UTF-8 in a label", maps, contentJSON, "{\"metadata\":{\"name\":\"u\",\"labels\":{\"a\":\"\xff\xfe\"}}}", http.StatusUnprocessableEntity, "metadata.labels: Invalid value"},
		{"invalid UTF-8 in a name", maps, contentJSON, "{\"metadata\":{\"name\":\"u\xff\"}}", http.StatusUnprocessableEntity, "metadata.name: Invalid value"},
		{"invalid UTF-8 in YAML", maps, contentYAML, "metadata: {name: \"u\xff\"}", http.StatusBadRequest, ""},
		{"invalid UTF-8 in the path", "/api/v1/namespaces/" + ns + "/configmaps/%ff%fe", contentJSON, "", http.StatusNotFound, "not found"},
		{"protobuf that is none", maps, contentProtobuf, "k8s\x00\xff\xff\xff", http.StatusBadRequest, ""},
		{"protobuf that promises 2 GB", maps, contentProtobuf, "k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\xff\xff\xff\xff\x07", http.StatusBadRequest, ""},
		{"a type that nobody knows", maps, "application/odd", `{}`, http.StatusUnsupportedMediaType, ""},
		{"a long selector", maps + "?labelSelector=" + strings.Repeat("a,", 10_000) + "a", "", "", http.StatusOK, ""},
		{"a selector that is none", maps + "?labelSelector=%28%28", "", "", http.StatusBadRequest, "found '('"},
		{"a continue token that is none", maps + "?continue=AAAA", "", "", http.StatusBadRequest, "continue key is not valid"},
		{"a huge limit", maps + "?limit=99999999999999999999", "", "", http.StatusBadRequest, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			method := http.MethodPost
			if test.content == "" || test.body == "" {
				method = http.MethodGet
			}
			got := must(call.call(t.Context(), method, test.path, test.content, []byte(test.body), ""))(t)
			if test.code != got.code && (test.code != 0 || got.code < 400) || !strings.Contains(got.message(), test.message) {
				t.Errorf("%d %.500s, want %d …%s…", got.code, got.message(), test.code, test.message)
			}
			if len(got.body) > 4<<20 {
				t.Errorf("the refusal is %d bytes long", len(got.body))
			}
		})
	}
	got := must(call.call(t.Context(), http.MethodPatch, maps+"/kube-root-ca.crt", jsonPatch, []byte("["+strings.Repeat(`{"op":"add","path":"/data/a","value":"b"},`, 10_001)+`{"op":"remove","path":"/data/a"}]`), ""))(t)
	if got.code != http.StatusRequestEntityTooLarge && got.code != http.StatusNotFound {
		t.Errorf("10,002 operations of a patch: %d %s", got.code, got.message())
	}
	call.want(t, http.StatusCreated, http.MethodPost, maps, []byte(`{"metadata":{"name":"alive"}}`))
}

// multiply is YAML whose aliases stand for 9^9 values.
func multiply() string {
	var b strings.Builder
	for _, name := range "bcdefghi" {
		before := string(name - 1)
		fmt.Fprintf(&b, "%c: &%c [%s]\n", name, name, strings.TrimSuffix(strings.Repeat("*"+before+",", 9), ","))
	}
	return b.String()
}

// dial opens a TLS connection with the credentials of config.
func dial(t *testing.T, config *rest.Config) *tls.Conn {
	t.Helper()
	settings := must(rest.TLSConfigFor(config))(t)
	settings.NextProtos = []string{"http/1.1"}
	settings.ServerName = "127.0.0.1"
	connection := must(tls.Dial("tcp", strings.TrimPrefix(config.Host, "https://"), settings))(t)
	t.Cleanup(func() { connection.Close() })
	return connection
}

// TestSlowClients has clients that hold what they began, while others go on.
func TestSlowClients(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	call := admin(t, c)
	maps := "/api/v1/namespaces/" + ns + "/configmaps"

	// Watchers that never read, on connections with little room.
	for range 20 {
		connection := dial(t, c.Admin)
		if tcp, ok := connection.NetConn().(*net.TCPConn); ok {
			if err := tcp.SetReadBuffer(4096); err != nil {
				t.Fatal(err)
			}
		}
		must(fmt.Fprintf(connection, "GET %s?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n", maps))(t)
	}
	// Bodies that do not come to their end.
	for range 20 {
		connection := dial(t, c.Admin)
		must(fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"metadata\":", maps))(t)
	}
	// Headers that do not, and connections that never say a word.
	for range 20 {
		must(fmt.Fprintf(dial(t, c.Admin), "GET /api HTTP/1.1\r\nX-Slow: "))(t)
		silent := must(net.Dial("tcp", strings.TrimPrefix(c.Admin.Host, "https://")))(t)
		t.Cleanup(func() { silent.Close() })
	}

	// Everybody else is served, and hears of everything.
	events := must(c.Client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{}))(t)
	defer events.Stop()
	value := strings.Repeat("x", 64<<10)
	const writes = 60
	slowest := time.Duration(0)
	for i := range writes {
		start := time.Now()
		call.want(t, http.StatusCreated, http.MethodPost, maps, fmt.Appendf(nil, `{"metadata":{"name":"m%d"},"data":{"k":"%s"}}`, i, value))
		slowest = max(slowest, time.Since(start))
	}
	for i := 0; i < writes; i++ {
		next(t, events)
	}
	if slowest > 30*time.Second {
		t.Errorf("the slowest write took %v", slowest)
	}
	t.Logf("slowest of %d writes beside 80 slow clients: %v", writes, slowest)
}

// TestWatchFlood opens and drops watches by the hundred, and checks that the
// server lets go of them.
func TestWatchFlood(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	call := admin(t, c)
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	before := watchers(t, call)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const flood = 500
	var open atomic.Int64
	var ended sync.WaitGroup
	hold := func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, call.host+maps+"?watch=1", nil)
		if err != nil {
			return err
		}
		response, err := call.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("watch: %s", response.Status)
		}
		open.Add(1)
		defer open.Add(-1)
		_, err = io.Copy(io.Discard, response.Body) // until the watch is dropped
		return err
	}
	var fault atomic.Value
	for range flood {
		// A busy machine may lose a connection, with a hundred watches on it.
		ended.Go(func() {
			for ctx.Err() == nil {
				if err := hold(); err != nil {
					fault.Store(err.Error())
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	eventually(t, "the flood's watches are open", func(context.Context) (bool, error) {
		return open.Load() == flood, fmt.Errorf("%d are, and a fault was %v", open.Load(), fault.Load())
	})
	eventually(t, "the flood's watches are counted", func(context.Context) (bool, error) {
		n := watchers(t, call)
		return n >= before+flood-5, fmt.Errorf("%d, and %d before", n, before)
	})
	// Watches that cannot keep up with these are ended; that is their protection.
	start := time.Now()
	for i := range 10 {
		call.want(t, http.StatusCreated, http.MethodPost, maps, fmt.Appendf(nil, `{"metadata":{"name":"m%d"}}`, i))
		call.want(t, http.StatusOK, http.MethodGet, maps, nil)
	}
	t.Logf("10 writes and lists beside %d watches: %v", flood, time.Since(start))
	cancel()
	ended.Wait()
	eventually(t, "the flood's watches are gone", func(context.Context) (bool, error) {
		n := watchers(t, call)
		return n <= before+5, fmt.Errorf("%d, and %d before", n, before)
	})
}

// watchers counts the server's running watches of config maps.
func watchers(t *testing.T, call caller) int {
	t.Helper()
	a := must(call.call(t.Context(), http.MethodGet, "/metrics", "", nil, "text/plain"))(t)
	lines := bufio.NewScanner(bytes.NewReader(a.body))
	lines.Buffer(nil, 1<<20)
	total := 0
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "apiserver_longrunning_requests{") && strings.Contains(line, `resource="configmaps"`) && strings.Contains(line, `verb="WATCH"`) {
			n := 0
			if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &n); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			total += n
		}
	}
	return total
}
