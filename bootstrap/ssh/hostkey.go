package ssh

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// HostKeyError says that a host's key was not accepted, where the conflicting
// knowledge stands, and what to do.
type HostKeyError struct {
	Host    string // as known_hosts names it
	Key     string // the key presented: type and SHA256 fingerprint
	Known   []string
	Reason  string // unknown, changed, revoked, not pinned
	Message string
}

func (e *HostKeyError) Error() string { return e.Message }

// hostKeys judges the keys of one host.
type hostKeys struct {
	name     string // host:port in known_hosts
	policy   HostKeyPolicy
	pinned   []string
	files    []string
	hash     bool
	check    ssh.HostKeyCallback
	known    []knownhosts.KnownKey
	origin   map[string]string // temporary copy to the file it was made of
	rejected *HostKeyError     // what the callback said, since the library flattens it
	seen     ssh.PublicKey     // the key last presented
}

// writing serialises additions to known_hosts within this process; between
// processes a file lock does.
var writing sync.Mutex

func newHostKeys(r resolved) (*hostKeys, error) {
	h := &hostKeys{name: r.hostKeyName, policy: r.HostKeys, pinned: r.Pinned, files: r.KnownHosts, hash: r.hashKnownHosts}
	for _, pin := range h.pinned {
		if !strings.HasPrefix(pin, "SHA256:") {
			return nil, fmt.Errorf("pinned host key %q of %s: want a fingerprint SHA256:… as `ssh-keygen -lf` prints it", pin, r.Host)
		}
	}
	if len(h.pinned) > 0 {
		return h, nil
	}
	return h, h.read()
}

// read loads known_hosts and lists what it holds for the host.
func (h *hostKeys) read() error {
	var existing []string
	for _, path := range h.files {
		if _, err := os.Stat(path); err == nil {
			existing = append(existing, path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read known hosts: %w", err)
		}
	}
	check, err := knownhosts.New(existing...)
	if err != nil {
		check, err = h.readLeniently(existing)
	}
	if err != nil {
		return fmt.Errorf("read known hosts: %w", err)
	}
	h.check, h.known = check, nil
	// A key that no file can hold makes the library list all it knows.
	var keyError *knownhosts.KeyError
	if err := check(h.name, &net.TCPAddr{IP: net.IPv4zero, Port: 22}, noKey{}); errors.As(err, &keyError) {
		h.known = keyError.Want
	}
	return nil
}

// readLeniently leaves out lines that cannot be parsed (key types of other
// clients), as OpenSSH does, keeping line numbers.
func (h *hostKeys) readLeniently(files []string) (ssh.HostKeyCallback, error) {
	dir, err := os.MkdirTemp("", "known-hosts-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	h.origin = map[string]string{}
	var copies []string
	for i, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		lines := bytes.Split(raw, []byte("\n"))
		for n, line := range lines {
			if _, _, _, _, _, err := ssh.ParseKnownHosts(line); err != nil {
				lines[n] = nil
			}
		}
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, bytes.Join(lines, []byte("\n")), 0o600); err != nil {
			return nil, err
		}
		h.origin[name] = path
		copies = append(copies, name)
	}
	return knownhosts.New(copies...)
}

// noKey is a public key that equals none.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// algorithms lists the host key algorithms to negotiate, so that the host
// presents a key that known_hosts can judge. Types in spent were already
// presented and did not match a pin.
func (h *hostKeys) algorithms(spent []string) []string {
	var algorithms []string
	add := func(names ...string) {
		for _, n := range names {
			if !slices.Contains(algorithms, n) && !slices.Contains(spent, n) {
				algorithms = append(algorithms, n)
			}
		}
	}
	authority := false
	for _, k := range h.known {
		if h.isAuthority(k) {
			authority = true
			continue
		}
		add(keyAlgorithms(k.Key.Type())...)
	}
	if authority {
		var certs []string
		for _, a := range ssh.SupportedAlgorithms().HostKeys {
			if strings.Contains(a, "-cert-v01@") {
				certs = append(certs, a)
			}
		}
		algorithms = append(certs, algorithms...)
	}
	if len(algorithms) == 0 {
		for _, t := range []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA} {
			add(keyAlgorithms(t)...)
		}
	}
	return algorithms
}

// keyAlgorithms are the signature algorithms of a key type; SHA-1 is not among
// them.
func keyAlgorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// isAuthority tells whether a known key stands on an @cert-authority line.
func (h *hostKeys) isAuthority(k knownhosts.KnownKey) bool {
	file, err := os.Open(h.file(k))
	if err != nil {
		return false
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for n := 1; scanner.Scan(); n++ {
		if n == k.Line {
			return strings.HasPrefix(strings.TrimSpace(scanner.Text()), "@cert-authority")
		}
	}
	return false
}

// file is the name a person knows the file of k by.
func (h *hostKeys) file(k knownhosts.KnownKey) string {
	if original, ok := h.origin[k.Filename]; ok {
		return original
	}
	return k.Filename
}

// callback is the library's question: is this the host's key?
func (h *hostKeys) callback(_ string, remote net.Addr, key ssh.PublicKey) error {
	h.seen = key
	err := h.judge(remote, key)
	var refused *HostKeyError
	if errors.As(err, &refused) {
		h.rejected = refused
	}
	return err
}

func (h *hostKeys) judge(remote net.Addr, key ssh.PublicKey) error {
	fingerprint := ssh.FingerprintSHA256(key)
	if cert, ok := key.(*ssh.Certificate); ok {
		fingerprint = ssh.FingerprintSHA256(cert.Key)
	}
	name := knownhosts.Normalize(h.name)
	refuse := func(reason, format string, args ...any) *HostKeyError {
		return &HostKeyError{Host: name, Key: key.Type() + " " + fingerprint, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if len(h.pinned) > 0 {
		if slices.Contains(h.pinned, fingerprint) {
			return nil
		}
		return refuse("not pinned", "%s presents the %s host key %s, which is not the one pinned in the inventory (%s). If the host was reinstalled, pin its new key; if not, somebody may be in between: do not connect", name, key.Type(), fingerprint, strings.Join(h.pinned, ", "))
	}
	if _, ok := remote.(*net.TCPAddr); !ok || remote == nil {
		remote = &net.TCPAddr{IP: net.IPv4zero, Port: 22} // through a jump host
	}
	err := h.check(h.name, remote, key)
	if err == nil {
		return nil
	}
	var revoked *knownhosts.RevokedError
	if errors.As(err, &revoked) {
		return refuse("revoked", "%s presents the %s host key %s, which %s:%d marks as revoked: do not connect", name, key.Type(), fingerprint, h.file(revoked.Revoked), revoked.Revoked.Line)
	}
	var keyError *knownhosts.KeyError
	if !errors.As(err, &keyError) {
		return refuse("unknown", "%s presents a host key that cannot be judged: %v", name, err)
	}
	if len(keyError.Want) > 0 {
		refusal := refuse("changed", "")
		for _, k := range keyError.Want {
			refusal.Known = append(refusal.Known, fmt.Sprintf("%s:%d", h.file(k), k.Line))
		}
		refusal.Message = fmt.Sprintf("the host key of %s has CHANGED: it presents %s %s, but %s says otherwise. If the host was reinstalled, remove the old key (ssh-keygen -R '%s' -f %s) and connect again; if not, somebody may be in between: do not connect",
			name, key.Type(), fingerprint, strings.Join(refusal.Known, ", "), name, h.file(keyError.Want[0]))
		return refusal
	}
	if h.policy == HostKeyAcceptNew {
		return h.accept(key)
	}
	return refuse("unknown", "the host key of %s is not known: it presents %s %s. Compare that with `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` on the host, then add it (ssh-keyscan -H %s >> %s), pin it in the inventory, or allow first contact with hostKeyPolicy: accept-new", name, key.Type(), fingerprint, hostOnly(h.name), h.writable())
}

func hostOnly(hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport
	}
	if port != "22" {
		return "-p " + port + " " + host
	}
	return host
}

// writable is the file that accept-new writes to.
func (h *hostKeys) writable() string {
	if len(h.files) == 0 {
		return "~/.ssh/known_hosts"
	}
	return h.files[0]
}

// accept writes a first-seen key to known_hosts, unless another connection or
// process has written one meanwhile; then that one counts.
func (h *hostKeys) accept(key ssh.PublicKey) error {
	if len(h.files) == 0 {
		return errors.New("accept the host key: there is no known_hosts file to write it to")
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	writing.Lock()
	defer writing.Unlock()
	path := h.files[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write the host key to known hosts: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write the host key to known hosts: %w", err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock known hosts: %w", err)
	}
	if err := h.read(); err != nil {
		return err
	}
	if len(h.known) > 0 {
		strict := *h
		strict.policy = HostKeyStrict
		return strict.judge(&net.TCPAddr{IP: net.IPv4zero, Port: 22}, key)
	}
	name := knownhosts.Normalize(h.name)
	if h.hash {
		name = knownhosts.HashHostname(name)
	}
	line := name + " " + string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key))) + "\n"
	if info, err := file.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := file.WriteString(line); err != nil {
		return fmt.Errorf("write the host key to known hosts: %w", err)
	}
	return file.Sync()
}
