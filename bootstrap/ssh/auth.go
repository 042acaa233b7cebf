package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// keyring loads keys once for all connections of a Dialer.
type keyring struct {
	secrets *secrets

	mu     sync.Mutex
	files  map[string]*fileKey
	agents map[string]agent.ExtendedAgent
	conns  []net.Conn
}

// fileKey is a private key of a file. An encrypted one is decrypted when a
// server has accepted its public half, not before.
type fileKey struct {
	path   string
	public ssh.PublicKey
	pem    []byte // of an encrypted key

	secrets *secrets
	mu      sync.Mutex
	signer  ssh.Signer // nil while encrypted
}

var _ ssh.AlgorithmSigner = (*boundKey)(nil)

// boundKey is a fileKey in one log-in: it knows the context to ask under and
// stops the log-in's clock meanwhile.
type boundKey struct {
	*fileKey
	ctx   context.Context
	clock *clock
}

func (k *boundKey) PublicKey() ssh.PublicKey { return k.public }

func (k *boundKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(r, data, "")
}

func (k *boundKey) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signer, err := k.unlock(k.ctx, k.clock)
	if err != nil {
		return nil, err
	}
	if as, ok := signer.(ssh.AlgorithmSigner); ok {
		return as.SignWithAlgorithm(r, data, algorithm)
	}
	return signer.Sign(r, data)
}

func (k *fileKey) unlock(ctx context.Context, c *clock) (ssh.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != nil {
		return k.signer, nil
	}
	defer c.pause()()
	question := fmt.Sprintf("Passphrase for key %s: ", k.path)
	err := k.secrets.get(ctx, "key "+k.path, question, func(secret []byte) (bool, error) {
		signer, err := ssh.ParsePrivateKeyWithPassphrase(k.pem, secret)
		if err != nil {
			return true, errors.New("the passphrase is wrong")
		}
		k.signer = signer
		return false, nil
	})
	if errors.Is(err, ErrNoTerminal) {
		return nil, fmt.Errorf("key %s is encrypted and there is %w for its passphrase: add it to an agent first (ssh-add %s)", k.path, err, k.path)
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt key %s: %w", k.path, err)
	}
	return k.signer, nil
}

// load reads a key file, or remembers it.
func (k *keyring) load(ctx context.Context, c *clock, path string) (*fileKey, error) {
	k.mu.Lock()
	key, ok := k.files[path]
	if !ok {
		key = &fileKey{path: path, secrets: k.secrets}
		if k.files == nil {
			k.files = map[string]*fileKey{}
		}
		k.files[path] = key
	}
	k.mu.Unlock()

	key.mu.Lock()
	loaded := key.public != nil
	key.mu.Unlock()
	if loaded {
		return key, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		key.mu.Lock()
		key.public, key.signer = signer.PublicKey(), signer
		key.mu.Unlock()
		return key, nil
	case errors.As(err, &missing):
		public := missing.PublicKey
		if public == nil { // an old PEM key: its public half may lie beside it
			public, _ = readPublicKey(path + ".pub")
		}
		key.mu.Lock()
		key.pem, key.public = raw, public
		key.mu.Unlock()
		if public == nil {
			signer, err := key.unlock(ctx, c)
			if err != nil {
				return nil, err
			}
			key.mu.Lock()
			key.public = signer.PublicKey()
			key.mu.Unlock()
		}
		return key, nil
	default:
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
}

func readPublicKey(path string) (ssh.PublicKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(raw)
	return key, err
}

// agent connects to the agent at socket once for all connections.
func (k *keyring) agent(socket string) (agent.ExtendedAgent, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a, ok := k.agents[socket]; ok {
		return a, nil
	}
	conn, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("connect to the ssh agent: %w", err)
	}
	a := agent.NewClient(conn)
	if k.agents == nil {
		k.agents = map[string]agent.ExtendedAgent{}
	}
	k.agents[socket] = a
	k.conns = append(k.conns, conn)
	return a, nil
}

func (k *keyring) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		c.Close()
	}
	k.conns, k.agents = nil, nil
}

// offer is what one log-in presents, and what can be said of it afterwards.
type offer struct {
	signers []ssh.Signer
	names   []string // for messages: where each key came from
	faults  []string // keys that could not be used, and why
}

// offer collects the keys for a log-in: configured keys first (through the
// agent where it holds them), then the agent's others, then default files.
// A certificate lying beside a key is offered before the bare key.
func (k *keyring) offer(ctx context.Context, c *clock, r resolved) (*offer, error) {
	o := &offer{}
	inAgent := map[string]ssh.Signer{}
	var agentOrder []string
	if r.agentSocket != "" {
		if a, err := k.agent(r.agentSocket); err != nil {
			o.faults = append(o.faults, err.Error())
		} else if signers, err := a.Signers(); err != nil {
			o.faults = append(o.faults, fmt.Sprintf("list the ssh agent's keys: %v", err))
		} else {
			for _, s := range signers {
				blob := string(s.PublicKey().Marshal())
				inAgent[blob] = s
				agentOrder = append(agentOrder, blob)
			}
		}
	}
	offered := map[string]bool{}
	add := func(s ssh.Signer, name string) {
		blob := string(s.PublicKey().Marshal())
		if !offered[blob] {
			offered[blob] = true
			o.signers = append(o.signers, s)
			o.names = append(o.names, name)
		}
	}
	addFile := func(id identityFile) error {
		key, err := k.load(ctx, c, id.path)
		if errors.Is(err, fs.ErrNotExist) {
			// The private half may live in the agent, with only .pub here.
			if public, pubErr := readPublicKey(strings.TrimSuffix(id.path, ".pub") + ".pub"); pubErr == nil {
				if s, ok := inAgent[string(public.Marshal())]; ok {
					add(s, "agent "+id.path)
					return nil
				}
			}
			if id.optional {
				return nil
			}
		}
		if err != nil {
			if id.optional {
				o.faults = append(o.faults, err.Error())
				return nil
			}
			return err
		}
		var signer ssh.Signer = &boundKey{fileKey: key, ctx: ctx, clock: c}
		name := id.path
		if s, ok := inAgent[string(key.public.Marshal())]; ok {
			signer, name = s, "agent "+id.path
		}
		if cert, err := readPublicKey(id.path + "-cert.pub"); err == nil {
			if cert, ok := cert.(*ssh.Certificate); ok {
				if s, err := ssh.NewCertSigner(cert, signer); err == nil {
					add(s, id.path+"-cert.pub")
				} else {
					o.faults = append(o.faults, fmt.Sprintf("%s-cert.pub: %v", id.path, err))
				}
			}
		}
		add(signer, name)
		return nil
	}
	addAgent := func() {
		for _, blob := range agentOrder {
			add(inAgent[blob], "agent "+ssh.FingerprintSHA256(inAgent[blob].PublicKey()))
		}
	}
	explicit := len(r.Keys)
	for i, id := range r.identities {
		if i == explicit && !r.identitiesOnly && allOptional(r.identities[explicit:]) {
			addAgent()
		}
		if err := addFile(id); err != nil {
			return nil, err
		}
	}
	if !r.identitiesOnly {
		addAgent()
	}
	return o, nil
}

func allOptional(ids []identityFile) bool {
	for _, id := range ids {
		if !id.optional {
			return false
		}
	}
	return true
}

// methods are the authentication methods of one log-in.
func (d *Dialer) methods(ctx context.Context, c *clock, r resolved, o *offer) []ssh.AuthMethod {
	var methods []ssh.AuthMethod
	if len(o.signers) > 0 {
		methods = append(methods, ssh.PublicKeys(o.signers...))
	}
	if !r.Password {
		return methods
	}
	key := "password " + r.String()
	tries := 0
	ask := func() (string, error) {
		defer c.pause()()
		// The server judges, so a password that was remembered and is asked
		// for again was wrong.
		if known := d.secrets.lookup(key); known != nil && tries == 0 {
			tries++
			return string(known), nil
		}
		tries++
		d.secrets.asking.Lock()
		defer d.secrets.asking.Unlock()
		if d.secrets.prompt == nil {
			return "", ErrNoTerminal
		}
		secret, err := d.secrets.prompt(ctx, fmt.Sprintf("Password for %s: ", r))
		if err != nil {
			return "", err
		}
		d.secrets.remember(key, secret)
		return string(secret), nil
	}
	methods = append(methods,
		ssh.RetryableAuthMethod(ssh.PasswordCallback(ask), attempts),
		ssh.RetryableAuthMethod(ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
			answers := make([]string, len(questions))
			for i := range questions {
				if echos[i] {
					continue // nothing but secrets is answered here
				}
				secret, err := ask()
				if err != nil {
					return nil, err
				}
				answers[i] = secret
			}
			return answers, nil
		}), attempts),
	)
	return methods
}

// explain turns a refused log-in into an error that says what was tried.
func (o *offer) explain(r resolved, err error) error {
	if !strings.Contains(err.Error(), "unable to authenticate") {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s refused every key", r)
	if len(o.names) == 0 {
		b.WriteString(" (there was none to offer)")
	} else {
		fmt.Fprintf(&b, " (offered: %s)", strings.Join(o.names, ", "))
	}
	if len(o.faults) > 0 {
		fmt.Fprintf(&b, "; not used: %s", strings.Join(o.faults, "; "))
	}
	b.WriteString(". Put one of your public keys into the host's authorized_keys (ssh-copy-id), or name the right key or user in the inventory")
	return errors.New(b.String())
}

// clock is the time limit of a log-in. It stands still while a person is asked.
type clock struct {
	mu     sync.Mutex
	timer  *time.Timer
	limit  time.Duration
	paused int
}

// startClock calls expire after limit.
func startClock(limit time.Duration, expire func()) *clock {
	return &clock{limit: limit, timer: time.AfterFunc(limit, expire)}
}

// pause stops the clock until the returned function is called; then it begins
// anew.
func (c *clock) pause() (resume func()) {
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused++
	c.timer.Stop()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.paused--; c.paused == 0 {
			c.timer.Reset(c.limit)
		}
	}
}

func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused++ // a late resume does not start it again
	c.timer.Stop()
}
