package apiserver

import (
	"fmt"
	"net/http"
)

// serveTokenKeys serves what others need to verify service-account tokens.
func (s *Server) serveTokenKeys() error {
	document, err := s.tokens.Discovery("https://" + s.generic.ExternalAddress + "/openid/v1/jwks")
	if err != nil {
		return fmt.Errorf("build OpenID discovery document: %w", err)
	}
	keys, err := s.tokens.KeySet()
	if err != nil {
		return err
	}
	for path, body := range map[string]struct {
		kind string
		data []byte
	}{
		"/.well-known/openid-configuration": {"application/json", document},
		"/openid/v1/jwks":                   {"application/jwk-set+json", keys},
	} {
		s.generic.Handler.NonGoRestfulMux.Handle(path, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", body.kind)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			// A client that went away needs no answer.
			_, _ = w.Write(body.data)
		}))
	}
	return nil
}
