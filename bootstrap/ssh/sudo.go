package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Root is how a Client's user becomes root on its host.
type Root struct {
	client   *Client
	prefix   string // before a command; empty for root itself
	password []byte // first line of standard input; nil where none is read
}

// RootAccess is what RootProbe found.
type RootAccess string

// What RootProbe finds.
const (
	RootDirect   RootAccess = "root"     // the user is root
	RootSudo     RootAccess = "sudo"     // sudo asks for nothing
	RootPassword RootAccess = "password" // sudo wants a password
	RootNone     RootAccess = "none"     // there is no sudo
)

// RootProbe is a POSIX shell fragment that sets the variable root to a
// RootAccess.
const RootProbe = `if [ "$(id -u)" = 0 ]; then root=root
elif ! command -v sudo >/dev/null 2>&1; then root=none
elif sudo -k -n true 2>/dev/null; then root=sudo
else root=password; fi`

// Root makes the way to root that access says, asking for a password where
// that is needed (once per user, and the same is tried on every host).
func (c *Client) Root(ctx context.Context, access RootAccess) (*Root, error) {
	if access != RootDirect && c.target.NoSudo {
		return nil, fmt.Errorf("%s: user %s is not root and the inventory says not to use sudo", c.target, c.User())
	}
	switch access {
	case RootDirect:
		return &Root{client: c}, nil
	case RootSudo:
		return &Root{client: c, prefix: "sudo -n -- "}, nil
	case RootNone:
		return nil, fmt.Errorf("%s: user %s is not root and sudo is not installed; connect as root or install sudo", c.target, c.User())
	case RootPassword:
	default:
		return nil, fmt.Errorf("%s: root access %q is not one that is known", c.target, access)
	}
	// -k ignores cached credentials, so that sudo reads exactly one line of
	// standard input, every time, before the command gets the rest.
	r := &Root{client: c, prefix: "LC_ALL=C sudo -k -S -p '' -- "}
	question := fmt.Sprintf("[sudo] password for %s: ", c.target)
	err := c.dialer.secrets.get(ctx, "sudo "+c.User(), question, func(secret []byte) (bool, error) {
		r.password = secret
		_, _, err := r.Run(ctx, "true", nil)
		var exit *ExitError
		if errors.As(err, &exit) {
			return wrongPassword(exit.Stderr), errors.New(sudoReason(exit.Stderr))
		}
		return false, err
	})
	if errors.Is(err, ErrNoTerminal) {
		return nil, fmt.Errorf("%s: sudo wants a password of user %s and there is %w; allow sudo without a password or run on a terminal", c.target, c.User(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: become root with sudo: %w", c.target, err)
	}
	return r, nil
}

func wrongPassword(stderr string) bool {
	return strings.Contains(stderr, "try again") || strings.Contains(stderr, "incorrect password") || strings.Contains(stderr, "no password was provided")
}

// sudoReason is what sudo complained about, in one line.
func sudoReason(stderr string) string {
	if wrongPassword(stderr) {
		return "the password is wrong"
	}
	var lines []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "We trust you") && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "sudo refused without saying why"
	}
	return "sudo refuses: " + lines[len(lines)-1]
}

// Run is Client.Run as root.
func (r *Root) Run(ctx context.Context, command string, stdin io.Reader) (stdout, stderr []byte, err error) {
	return r.client.Run(ctx, r.prefix+command, r.input(stdin))
}

// Start is Client.Start as root.
func (r *Root) Start(ctx context.Context, command string) (*Process, error) {
	p, err := r.client.Start(ctx, r.prefix+command)
	if err != nil {
		return nil, err
	}
	if r.password != nil {
		if _, err := io.Copy(p.Stdin, r.input(nil)); err != nil {
			p.Close()
			return nil, fmt.Errorf("send sudo's password: %w", err)
		}
	}
	return p, nil
}

// input puts the password's line before stdin.
func (r *Root) input(stdin io.Reader) io.Reader {
	if r.password == nil {
		return stdin
	}
	line := append(append([]byte(nil), r.password...), '\n')
	if stdin == nil {
		return strings.NewReader(string(line))
	}
	return io.MultiReader(strings.NewReader(string(line)), stdin)
}
