package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"clusterctl/bootstrap/ssh/sshtest"
)

func newPrivate() (ed25519.PublicKey, *ed25519.PrivateKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	return public, &private, err
}

// hostCertificate is key certified by authority for a host's name.
func hostCertificate(t *testing.T, key, authority ssh.Signer, name string) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{name}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// fakeSudo behaves as sudo does without a terminal: it reads one line of
// standard input for each try, and leaves the rest to the command.
const fakeSudo = `#!/bin/sh
interactive=yes stdin=no
while [ $# -gt 0 ]; do
  case "$1" in
  -n) interactive=no ;;
  -S) stdin=yes ;;
  -p) shift ;;
  -k) ;;
  --) shift; break ;;
  *) break ;;
  esac
  shift
done
echo "$@" >> "$SUDO_LOG"
case "$SUDO_MODE" in
free) exec "$@" ;;
refuse) [ $interactive = no ] && { echo "sudo: a password is required" >&2; exit 1; }
  echo "tester is not in the sudoers file." >&2; exit 1 ;;
esac
[ $interactive = no ] && { echo "sudo: a password is required" >&2; exit 1; }
[ $stdin = yes ] || { echo "sudo: a terminal is required" >&2; exit 1; }
for try in 1 2 3; do
  IFS= read -r line || { echo "sudo: no password was provided" >&2; exit 1; }
  [ "$line" = "$SUDO_SECRET" ] && exec "$@"
  echo "Sorry, try again." >&2
done
echo "sudo: 3 incorrect password attempts" >&2
exit 1
`

func TestSudo(t *testing.T) {
	const secret = "s3cr3t of tester"
	for _, c := range []struct {
		name    string
		mode    string // of the fake
		noSudo  bool
		answers []string
		access  RootAccess
		asked   int
		fails   string
	}{
		{name: "without a password", mode: "free", access: RootSudo},
		{name: "with a password", mode: "ask", access: RootPassword, answers: []string{secret}, asked: 1},
		{name: "with a password, mistyped first", mode: "ask", access: RootPassword, answers: []string{"oops", secret}, asked: 2},
		{name: "with wrong passwords", mode: "ask", access: RootPassword, answers: []string{"a", "b", "c"}, asked: 3, fails: "gave up after 3 tries: the password is wrong"},
		{name: "not in the sudoers file", mode: "refuse", access: RootPassword, answers: []string{secret}, asked: 1, fails: "sudo refuses: tester is not in the sudoers file."},
		{name: "not installed", mode: "missing", access: RootNone, fails: "sudo is not installed"},
		{name: "not wanted", mode: "free", noSudo: true, access: RootSudo, fails: "not to use sudo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, bin := t.TempDir(), t.TempDir()
			log := filepath.Join(bin, "log")
			for name, script := range map[string]string{"id": "#!/bin/sh\necho 1000\n", "sudo": fakeSudo} {
				if name == "sudo" && c.mode == "missing" {
					continue
				}
				if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			path := bin + ":/usr/bin:/bin"
			if c.mode == "missing" {
				path = bin
				for _, tool := range []string{"sh", "echo"} {
					if err := os.Symlink("/bin/"+tool, filepath.Join(bin, tool)); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, key := keyFile(t, home, "id_ed25519", "")
			s := newServer(t, sshtest.Options{User: []ssh.PublicKey{key}, Env: []string{
				"PATH=" + path, "SUDO_MODE=" + c.mode, "SUDO_SECRET=" + secret, "SUDO_LOG=" + log,
			}})
			person := &asked{answers: c.answers}
			d := newDialer(t, home, Options{Prompt: person.prompt})
			to := target(s)
			to.HostKeys, to.NoSudo = HostKeyAcceptNew, c.noSudo
			client, err := d.Dial(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			out, _, err := client.Run(t.Context(), RootProbe+"\necho $root", nil)
			if err != nil || strings.TrimSpace(string(out)) != string(c.access) {
				t.Fatalf("probe: %q, %v; want %s", out, err, c.access)
			}
			root, err := client.Root(t.Context(), c.access)
			if len(person.questions) != c.asked {
				t.Errorf("asked %q, want %d questions", person.questions, c.asked)
			}
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("got %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// The command gets its input from the first byte on.
			out, _, err = root.Run(t.Context(), "cat", strings.NewReader("request\n"))
			if err != nil || string(out) != "request\n" {
				t.Errorf("run: %q, %v", out, err)
			}
			p, err := root.Start(t.Context(), "cat")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(p.Stdin, "one")
			line := make([]byte, 4)
			if _, err := p.Stdout.Read(line); err != nil || string(line) != "one\n" {
				t.Errorf("start: %q, %v", line, err)
			}
			p.Stdin.Close()
			if err := p.Wait(); err != nil {
				t.Errorf("wait: %v", err)
			}
			// A second host of the same user is not asked about.
			again, err := d.Dial(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if _, err := again.Root(t.Context(), c.access); err != nil {
				t.Error(err)
			}
			if len(person.questions) != c.asked {
				t.Errorf("asked again: %q", person.questions)
			}
			if said, _ := os.ReadFile(log); strings.Contains(string(said), secret) {
				t.Errorf("the password stands in a command line: %s", said)
			}
		})
	}
}
