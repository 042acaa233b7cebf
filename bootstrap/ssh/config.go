package ssh

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"
)

// resolved is a Target with everything filled in.
type resolved struct {
	Target
	addr           string // host:port to connect to
	hostKeyName    string // host:port to look up in known_hosts
	identities     []identityFile
	identitiesOnly bool
	agentSocket    string // empty: no agent
	hashKnownHosts bool
	connectTimeout time.Duration // 0: the Dialer's
}

// identityFile is a private key file; a default one may be missing silently.
type identityFile struct {
	path     string
	optional bool
}

// String names the connection in messages: user@address.
func (r resolved) String() string {
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil || port != "22" {
		host = r.addr
	}
	return r.User + "@" + host
}

// configs reads the ssh_config files, the first one first in authority. A
// missing file is an empty one.
func readConfigs(paths []string) ([]*ssh_config.Config, error) {
	var configs []*ssh_config.Config
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read ssh configuration: %w", err)
		}
		config, err := ssh_config.DecodeBytes(raw)
		if err != nil {
			return nil, fmt.Errorf("read ssh configuration %s: %w", path, err)
		}
		configs = append(configs, config)
	}
	return configs, nil
}

// lookup finds the values of key for alias: those of the first file that has
// any, as OpenSSH takes the first value it meets.
func lookup(configs []*ssh_config.Config, alias, key string) []string {
	for _, c := range configs {
		if values, err := c.GetAll(alias, key); err == nil && len(values) > 0 {
			return values
		}
	}
	return nil
}

// resolve fills target in from ssh_config and defaults.
func resolve(target Target, configs []*ssh_config.Config, home string) (resolved, error) {
	if target.Host == "" {
		return resolved{}, errors.New("the host has no address")
	}
	r := resolved{Target: target}
	first := func(key string) string {
		if v := lookup(configs, target.Host, key); len(v) > 0 {
			return v[0]
		}
		return ""
	}

	if r.User == "" {
		r.User = first("User")
	}
	if r.User == "" {
		name, err := localUser()
		if err != nil {
			return resolved{}, err
		}
		r.User = name
	}
	if r.Port == 0 {
		r.Port = 22
		if v := first("Port"); v != "" {
			port, err := strconv.Atoi(v)
			if err != nil {
				return resolved{}, fmt.Errorf("ssh configuration of %s: Port %q is not a number", target.Host, v)
			}
			r.Port = port
		}
	}
	expand := expander(target.Host, r.User, home)

	address := target.Host
	if v := first("HostName"); v != "" {
		address = strings.ReplaceAll(v, "%h", target.Host)
	}
	r.addr = net.JoinHostPort(address, strconv.Itoa(r.Port))
	r.hostKeyName = r.addr
	if v := first("HostKeyAlias"); v != "" {
		r.hostKeyName = net.JoinHostPort(v, "22")
	}

	if len(r.Jump) == 0 {
		if v := first("ProxyJump"); v != "" && !strings.EqualFold(v, "none") {
			r.Jump = strings.Split(v, ",")
		}
	}
	if len(r.Jump) == 1 && strings.EqualFold(r.Jump[0], "none") {
		r.Jump = nil
	}
	if v := first("ProxyCommand"); v != "" && !strings.EqualFold(v, "none") && len(target.Jump) == 0 && len(r.Jump) == 0 {
		return resolved{}, fmt.Errorf("ssh configuration of %s has a ProxyCommand, which clusterctl does not run; use ProxyJump, or set the jump host in the inventory (\"none\" to connect directly)", target.Host)
	}

	if r.HostKeys == "" {
		switch v := strings.ToLower(first("StrictHostKeyChecking")); v {
		case "accept-new":
			r.HostKeys = HostKeyAcceptNew
		default: // also "no", "off" and "ask": never less than strict
			r.HostKeys = HostKeyStrict
		}
	}
	switch r.HostKeys {
	case HostKeyStrict, HostKeyAcceptNew:
	case HostKeyPinned:
		if len(r.Pinned) == 0 {
			return resolved{}, fmt.Errorf("%s: the host key policy is %q and no key is pinned", target.Host, HostKeyPinned)
		}
	default:
		return resolved{}, fmt.Errorf("host key policy %q: want %q, %q or %q", r.HostKeys, HostKeyStrict, HostKeyAcceptNew, HostKeyPinned)
	}
	r.hashKnownHosts = isYes(first("HashKnownHosts"))
	if len(r.KnownHosts) == 0 {
		for _, key := range []string{"UserKnownHostsFile", "GlobalKnownHostsFile"} {
			for _, value := range lookup(configs, target.Host, key) {
				r.KnownHosts = append(r.KnownHosts, strings.Fields(value)...)
			}
			if key == "UserKnownHostsFile" && len(r.KnownHosts) == 0 {
				r.KnownHosts = []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts2"}
			}
		}
		r.KnownHosts = append(r.KnownHosts, "/etc/ssh/ssh_known_hosts")
	}
	known := make([]string, len(r.KnownHosts))
	for i, path := range r.KnownHosts {
		known[i] = expand(path)
	}
	r.KnownHosts = known

	for _, path := range r.Keys {
		r.identities = append(r.identities, identityFile{path: expand(path)})
	}
	configured := lookup(configs, target.Host, "IdentityFile")
	for _, path := range configured {
		if !strings.EqualFold(path, "none") {
			r.identities = append(r.identities, identityFile{path: expand(path), optional: true})
		}
	}
	if len(r.Keys) == 0 && len(configured) == 0 {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			r.identities = append(r.identities, identityFile{path: filepath.Join(home, ".ssh", name), optional: true})
		}
	}
	r.identitiesOnly = isYes(first("IdentitiesOnly"))

	r.agentSocket = os.Getenv("SSH_AUTH_SOCK")
	switch v := first("IdentityAgent"); {
	case v == "":
	case strings.EqualFold(v, "none"):
		r.agentSocket = ""
	case v == "SSH_AUTH_SOCK":
	case strings.HasPrefix(v, "$"):
		r.agentSocket = os.Getenv(strings.Trim(v, "${}"))
	default:
		r.agentSocket = expand(v)
	}
	if v := first("ConnectTimeout"); v != "" {
		if n, err := strconv.Atoi(v); err == nil && n > 0 {
			r.connectTimeout = time.Duration(n) * time.Second
		}
	}
	return r, nil
}

func isYes(v string) bool { return strings.EqualFold(v, "yes") }

func localUser() (string, error) {
	if name := os.Getenv("USER"); name != "" {
		return name, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("find the local user's name (set the ssh user in the inventory): %w", err)
	}
	return u.Username, nil
}

// expander replaces what ssh_config allows in file names: ~ and the tokens
// %d (home), %h (host), %r (remote user), %%.
func expander(host, remoteUser, home string) func(string) string {
	tokens := strings.NewReplacer("%%", "%", "%d", home, "%h", host, "%n", host, "%r", remoteUser)
	return func(path string) string {
		path = tokens.Replace(strings.Trim(path, `"`))
		if path == "~" || strings.HasPrefix(path, "~/") {
			path = filepath.Join(home, path[1:])
		}
		return path
	}
}
