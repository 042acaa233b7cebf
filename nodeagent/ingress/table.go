package ingress

import (
	"cmp"
	"math/rand/v2"
	"net"
	"path"
	"slices"
	"strings"
	"sync/atomic"
)

// table says where requests go. It never changes once it is made.
type table struct {
	// routes by host, in order of precedence. The host is a name, a wildcard
	// such as *.example.org, or "" for every host.
	routes map[string][]route
	// defaults, by host as in routes, are for requests that match no route.
	defaults map[string]*target
	// fallback is for hosts that have no default; nil: there is none.
	fallback *target
	// secrets with the certificate of a host, as in routes.
	secrets map[string]objectName
}

// route sends a path, and unless it is exact all below it, to a target.
type route struct {
	exact bool
	path  string // a prefix has no / at its end
	to    *target
}

// protocol is what a backend speaks.
type protocol string

const (
	protocolHTTP  protocol = "http"
	protocolHTTPS protocol = "https"
	protocolH2C   protocol = "h2c"
)

// target is one port of one service.
type target struct {
	name      string // namespace/service:port, for people
	protocol  protocol
	endpoints []string // host:port, sorted
	turn      atomic.Uint32
}

func newTarget(name string) *target {
	t := &target{name: name, protocol: protocolHTTP}
	t.turn.Store(rand.Uint32()) // so that new tables do not always begin with the same one
	return t
}

// order gives up to most endpoints in the order to try them in, each time
// beginning with the next.
func (t *target) order(most int) []string {
	n := len(t.endpoints)
	if n == 0 {
		return nil
	}
	first := int(t.turn.Add(1) % uint32(n))
	order := make([]string, 0, min(n, most))
	for i := range min(n, most) {
		order = append(order, t.endpoints[(first+i)%n])
	}
	return order
}

// match finds the target of a request; nil: there is none. The host is as
// hostOf gives it. More exact hosts count first, then longer paths, then exact
// ones; a path that none of a host's routes match is looked for in those of
// less exact hosts.
func (t *table) match(host, requested string) *target {
	requested = cleanPath(requested)
	for _, h := range candidates(host) {
		for _, r := range t.routes[h] {
			if r.matches(requested) {
				return r.to
			}
		}
	}
	for _, h := range candidates(host) {
		if to := t.defaults[h]; to != nil {
			return to
		}
	}
	return t.fallback
}

// matches compares element by element: /a has /a/b below it, and not /ab.
func (r route) matches(requested string) bool {
	if r.exact {
		return requested == r.path
	}
	rest, ok := strings.CutPrefix(requested, r.path)
	return ok && (rest == "" || rest[0] == '/')
}

// sortRoutes puts routes in order of precedence; of equal ones the first stays
// first.
func sortRoutes(routes []route) {
	slices.SortStableFunc(routes, func(a, b route) int {
		if c := cmp.Compare(len(b.path), len(a.path)); c != 0 {
			return c
		}
		switch {
		case a.exact == b.exact:
			return 0
		case a.exact:
			return -1
		}
		return 1
	})
}

// candidates are the keys to look a host up by, the most exact one first. A
// wildcard stands for exactly one label.
func candidates(host string) []string {
	found := make([]string, 0, 3)
	if host != "" {
		found = append(found, host)
		if _, parent, ok := strings.Cut(host, "."); ok && parent != "" {
			found = append(found, "*."+parent)
		}
	}
	return append(found, "")
}

// hostOf is the host of a Host header or a TLS server name: lower case, without
// port and final dot.
func hostOf(header string) string {
	host := header
	if h, _, err := net.SplitHostPort(header); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// cleanPath resolves . and .. and repeated slashes, so that nobody reaches
// /admin by asking for /public/../admin where only /public has a route. A slash
// at the end stays.
func cleanPath(p string) string {
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	clean := path.Clean(p)
	if directory := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/.."); directory && clean != "/" {
		clean += "/"
	}
	return clean
}
