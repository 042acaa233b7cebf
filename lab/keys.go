//go:build linux

package lab

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// hostKeyFiles are the keys of a host's sshd.
var hostKeyFiles = []string{"ssh_host_ed25519_key", "ssh_host_ecdsa_key"}

// makeClientKey makes the key that opens the lab's hosts, unless it is there.
func (l *Lab) makeClientKey() error {
	if _, err := os.Stat(l.KeyFile()); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.KeyFile()), 0o700); err != nil {
		return fmt.Errorf("create key directory: %w", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("generate client key: %w", err)
	}
	return writeKey(l.KeyFile(), key, "clusterctl lab "+l.Name)
}

// writeKey writes a private key in OpenSSH's format, and beside it the public
// one; the private one last, so that where it is both are.
func writeKey(path string, key crypto.Signer, comment string) error {
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode public key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return fmt.Errorf("encode private key: %w", err)
	}
	line := append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(public)), " "+comment+"\n"...)
	if err := writeFile(path+".pub", line, 0o644); err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(block), 0o600)
}

// makeHostKeys makes the keys of a host's sshd in dir.
func makeHostKeys(dir, host string) error {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("generate host key: %w", err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate host key: %w", err)
	}
	for i, key := range []crypto.Signer{edKey, ecKey} {
		if err := writeKey(filepath.Join(dir, hostKeyFiles[i]), key, "root@"+host); err != nil {
			return err
		}
	}
	return nil
}

// writeKnownHosts collects the keys of all hosts.
func (l *Lab) writeKnownHosts() error {
	var lines bytes.Buffer
	for _, host := range l.Hosts {
		for _, file := range hostKeyFiles {
			raw, err := os.ReadFile(filepath.Join(host.dir(), "upper/etc/ssh", file+".pub"))
			if err != nil {
				return fmt.Errorf("read host key: %w", err)
			}
			key, _, _, _, err := ssh.ParseAuthorizedKey(raw)
			if err != nil {
				return fmt.Errorf("parse key of %s: %w", host.Name, err)
			}
			fmt.Fprintln(&lines, knownhosts.Line([]string{host.Address}, key))
		}
	}
	return writeFile(l.KnownHosts(), lines.Bytes(), 0o600)
}

// clientConfig is how the lab itself logs into its hosts, to see that it can.
func (l *Lab) clientConfig() (*ssh.ClientConfig, error) {
	raw, err := os.ReadFile(l.KeyFile())
	if err != nil {
		return nil, fmt.Errorf("read client key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("parse client key: %w", err)
	}
	check, err := knownhosts.New(l.KnownHosts())
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w", err)
	}
	return &ssh.ClientConfig{
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   check,
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
