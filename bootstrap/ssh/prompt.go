package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/term"
)

// Prompt asks a person for a secret and returns it without the line's end. It
// is called for one question at a time.
type Prompt func(ctx context.Context, question string) ([]byte, error)

// ErrNoTerminal says that a secret is needed and nobody is there to ask.
var ErrNoTerminal = errors.New("no terminal to ask on")

// attempts is how often a secret is asked for before giving up.
const attempts = 3

// TerminalPrompt asks on the controlling terminal, without echo. Standard
// input and output are not touched, so it works in a pipe.
func TerminalPrompt(ctx context.Context, question string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, ErrNoTerminal
	}
	defer tty.Close()
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, ErrNoTerminal
	}
	if _, err := fmt.Fprint(tty, question); err != nil {
		return nil, fmt.Errorf("ask on the terminal: %w", err)
	}
	type answer struct {
		secret []byte
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		secret, err := term.ReadPassword(fd)
		answers <- answer{secret, err}
	}()
	select {
	case a := <-answers:
		fmt.Fprintln(tty)
		if a.err != nil {
			return nil, fmt.Errorf("read from the terminal: %w", a.err)
		}
		return a.secret, nil
	case <-ctx.Done():
		// The echo comes back at once; the reader ends with the next line or
		// with the program.
		_ = term.Restore(fd, before)
		fmt.Fprintln(tty)
		return nil, ctx.Err()
	}
}

// secrets asks one question at a time and remembers answers that worked, for
// as long as the Dialer lives.
type secrets struct {
	prompt Prompt

	asking sync.Mutex // held while asking, so that questions queue up
	mu     sync.Mutex // guards known
	known  map[string][]byte
}

func (s *secrets) lookup(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[key]
}

func (s *secrets) remember(key string, secret []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[string][]byte{}
	}
	s.known[key] = secret
}

// get finds the secret under key for which try succeeds. It tries what is known
// first, then asks up to three times. The error of the last try is returned.
// Try reports retry=false for failures that another secret would not mend.
func (s *secrets) get(ctx context.Context, key, question string, try func(secret []byte) (retry bool, err error)) error {
	var tried []byte
	for {
		if known := s.lookup(key); known != nil && !bytes.Equal(known, tried) {
			tried = known
			if retry, err := try(known); err == nil || !retry {
				return err
			}
		}
		s.asking.Lock()
		if known := s.lookup(key); known != nil && !bytes.Equal(known, tried) {
			s.asking.Unlock()
			continue // another connection got an answer while this one waited
		}
		defer s.asking.Unlock()
		return s.ask(ctx, key, question, try)
	}
}

func (s *secrets) ask(ctx context.Context, key, question string, try func(secret []byte) (retry bool, err error)) error {
	if s.prompt == nil {
		return ErrNoTerminal
	}
	var last error
	for range attempts {
		secret, err := s.prompt(ctx, question)
		if err != nil {
			return err
		}
		retry, err := try(secret)
		if err == nil {
			s.remember(key, secret)
			return nil
		}
		if last = err; !retry {
			return err
		}
	}
	return fmt.Errorf("gave up after %d tries: %w", attempts, last)
}
