package ssh

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Target is how to reach one host. Everything but Host is optional: what is
// empty comes from ssh_config, and then from OpenSSH's defaults.
type Target struct {
	// Host is what would be typed after `ssh`: a name, an address or an alias
	// of ssh_config.
	Host string
	Port int
	User string

	// Keys are private key files, tried before any other.
	Keys []string

	// Jump lists the hosts to go through, nearest to the workstation first,
	// each [user@]host[:port]. The single word "none" ignores ssh_config's
	// ProxyJump.
	Jump []string

	// HostKeys says how the host's key is judged; empty means ssh_config's
	// StrictHostKeyChecking, and strict where that is silent.
	HostKeys HostKeyPolicy

	// Pinned are fingerprints of host keys (SHA256:…). Where there are any,
	// the host must present one of them and known_hosts is not asked.
	Pinned []string

	// KnownHosts are the files to look in, instead of ssh_config's. The first
	// one is where accept-new writes.
	KnownHosts []string

	// Password allows password and keyboard-interactive log-in, through the
	// Dialer's Prompt, after every key was refused.
	Password bool

	// NoSudo refuses to become root through sudo.
	NoSudo bool
}

// HostKeyPolicy says what to do with a host key that is not known yet. One
// that differs from the known one is always refused.
type HostKeyPolicy string

const (
	// HostKeyStrict refuses hosts that known_hosts does not list.
	HostKeyStrict HostKeyPolicy = "strict"
	// HostKeyPinned refuses every key but those in Pinned.
	HostKeyPinned HostKeyPolicy = "pinned"
	// HostKeyAcceptNew writes the first key seen of a host to known_hosts.
	HostKeyAcceptNew HostKeyPolicy = "accept-new"
)

// String is user@host:port, as far as it is set.
func (t Target) String() string {
	s := t.Host
	if t.Port != 0 && t.Port != 22 {
		s = net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	}
	if t.User != "" {
		s = t.User + "@" + s
	}
	return s
}

// ParseJump reads [user@]host[:port], with or without ssh://.
func ParseJump(s string) (Target, error) {
	rest := strings.TrimPrefix(strings.TrimSpace(s), "ssh://")
	var t Target
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		t.User, rest = rest[:i], rest[i+1:]
	}
	t.Host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return Target{}, fmt.Errorf("jump host %q: port %q is not a number from 1 to 65535", s, port)
		}
		t.Host, t.Port = host, n
	}
	t.Host = strings.Trim(t.Host, "[]")
	if t.Host == "" {
		return Target{}, fmt.Errorf("jump host %q: want [user@]host[:port]", s)
	}
	return t, nil
}
