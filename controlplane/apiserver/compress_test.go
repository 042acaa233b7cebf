package apiserver

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"
)

func TestLongListsAreCompressed(t *testing.T) {
	list := request.RequestInfo{IsResourceRequest: true, Verb: "list"}
	for _, test := range []struct {
		name       string
		info       request.RequestInfo
		accept     string
		code, size int
		compressed bool
	}{
		{"long", list, "gzip", 200, longAnswer + 1, true},
		{"very long", list, "br, gzip", 200, 5 * longAnswer, true},
		{"long failure", list, "gzip", 500, longAnswer + 1, true},
		{"just not long", list, "gzip", 200, longAnswer, false},
		{"short", list, "gzip", 404, 10, false},
		{"empty", list, "gzip", 204, 0, false},
		{"not asked for", list, "", 200, 2 * longAnswer, false},
		{"asked for otherwise", list, "gzip;q=0", 200, 2 * longAnswer, false},
	} {
		for _, chunk := range []int{1000, 10 * longAnswer} {
			want := bytes.Repeat([]byte("0123456789"), test.size/10+1)[:test.size]
			handler := compressLists(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if accept := r.Header.Get("Accept-Encoding"); accept == "gzip" {
					t.Errorf("%s: the library is asked to compress too", test.name)
				}
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(test.code)
				for rest := want; len(rest) > 0; rest = rest[min(chunk, len(rest)):] {
					if _, err := w.Write(rest[:min(chunk, len(rest))]); err != nil {
						t.Errorf("%s: %v", test.name, err)
					}
				}
			}))
			r := httptest.NewRequestWithContext(request.WithRequestInfo(t.Context(), &test.info), http.MethodGet, "/", nil)
			if test.accept != "" {
				r.Header.Set("Accept-Encoding", test.accept)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != test.code || w.Header().Get("Content-Type") != "text/plain" {
				t.Errorf("%s: answered %d %v", test.name, w.Code, w.Header())
			}
			compressed := w.Header().Get("Content-Encoding") == "gzip"
			if compressed != test.compressed || compressed != (w.Header().Get("Vary") == "Accept-Encoding") {
				t.Errorf("%s: headers are %v, want compressed: %v", test.name, w.Header(), test.compressed)
			}
			got := w.Body.Bytes()
			if compressed {
				reader, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatalf("%s: %v", test.name, err)
				}
				if got, err = io.ReadAll(reader); err != nil {
					t.Fatalf("%s: %v", test.name, err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: got %d bytes, want %d", test.name, len(got), len(want))
			}
			if got := r.Header.Get("Accept-Encoding"); got != test.accept {
				t.Errorf("%s: the request now accepts %q", test.name, got)
			}
		}
	}
}

func TestOtherAnswersAreLeftToTheLibrary(t *testing.T) {
	for _, info := range []request.RequestInfo{
		{IsResourceRequest: true, Verb: "get"},
		{IsResourceRequest: true, Verb: "watch"},
		{Verb: "list"},
	} {
		recorder := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(request.WithRequestInfo(t.Context(), &info), http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		compressLists(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if w != http.ResponseWriter(recorder) || r.Header.Get("Accept-Encoding") != "gzip" {
				t.Errorf("%+v: the request is not passed on as it came", info)
			}
		})).ServeHTTP(recorder, r)
	}
}
