package apilb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// echoServer answers its own address to every line.
func echoServer(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					fmt.Fprintln(conn, listener.Addr())
				}
			}()
		}
	}()
	return listener
}

// fixture is a running balancer over servers that can be made to vanish.
type fixture struct {
	*balancer
	address string
	updates chan []string

	mu     sync.Mutex
	silent map[string]bool
}

func start(t *testing.T, servers ...string) *fixture {
	t.Helper()
	f := &fixture{
		balancer: newBalancer(servers, slog.New(slog.DiscardHandler)),
		updates:  make(chan []string),
		silent:   map[string]bool{},
	}
	f.probeInterval, f.patience = 5*time.Millisecond, time.Second
	f.dial = func(ctx context.Context, address string) (net.Conn, error) {
		f.mu.Lock()
		silent := f.silent[address]
		f.mu.Unlock()
		if silent {
			return nil, os.ErrDeadlineExceeded
		}
		return dial(ctx, address)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- f.serve(ctx, listener, f.updates) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve returned %v", err)
		}
	})
	return f
}

func (f *fixture) silence(address string, silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent[address] = silent
}

func (f *fixture) connect(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask returns the address of the server behind a connection.
func ask(conn net.Conn) (string, error) {
	if _, err := fmt.Fprintln(conn, "who"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	return line[:len(line)-1], nil
}

func TestSpreadsConnections(t *testing.T) {
	a, b := echoServer(t).Addr().String(), echoServer(t).Addr().String()
	f := start(t, a, b)
	count := map[string]int{}
	for range 10 {
		server, err := ask(f.connect(t))
		if err != nil {
			t.Fatal(err)
		}
		count[server]++
	}
	if count[a] != 5 || count[b] != 5 {
		t.Errorf("10 connections went %v, want 5 to each", count)
	}
}

func TestAvoidsRefusingServer(t *testing.T) {
	dead := echoServer(t)
	dead.Close()
	alive := echoServer(t).Addr().String()
	f := start(t, dead.Addr().String(), alive)
	for range 5 {
		if server, err := ask(f.connect(t)); err != nil || server != alive {
			t.Errorf("got %q, %v, want %q", server, err, alive)
		}
	}
}

func TestCutsClientsOffAVanishedServer(t *testing.T) {
	a, b := echoServer(t).Addr().String(), echoServer(t).Addr().String()
	f := start(t, a)
	conn := f.connect(t)
	if server, err := ask(conn); err != nil || server != a {
		t.Fatalf("got %q, %v, want %q", server, err, a)
	}
	f.updates <- []string{a, b}
	f.silence(a, true)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection to a vanished server ended with %v, want EOF", err)
	}
	if server, err := ask(f.connect(t)); err != nil || server != b {
		t.Errorf("after a vanished: got %q, %v, want %q", server, err, b)
	}
	f.silence(a, false)
	f.updates <- []string{a}
	for deadline := time.Now().Add(time.Minute); ; {
		server, err := ask(f.connect(t))
		if err == nil && server == a {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a is not used again after it came back: %v", err)
		}
	}
}

func TestKeepsClientsWhenThereIsNowhereElse(t *testing.T) {
	a := echoServer(t).Addr().String()
	f := start(t, a)
	conn := f.connect(t)
	if _, err := ask(conn); err != nil {
		t.Fatal(err)
	}
	f.silence(a, true)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		f.balancer.mu.Lock()
		down := f.servers[0].down
		f.balancer.mu.Unlock()
		if down {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the silent server was never taken for down")
		}
	}
	if server, err := ask(conn); err != nil || server != a {
		t.Errorf("got %q, %v: the only server's connection was dropped", server, err)
	}
}

func TestRemovedServerLosesItsClients(t *testing.T) {
	a, b := echoServer(t).Addr().String(), echoServer(t).Addr().String()
	f := start(t, a)
	conn := f.connect(t)
	if _, err := ask(conn); err != nil {
		t.Fatal(err)
	}
	f.updates <- []string{b}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection to a removed server ended with %v, want EOF", err)
	}
	if server, err := ask(f.connect(t)); err != nil || server != b {
		t.Errorf("got %q, %v, want %q", server, err, b)
	}
}

func TestHoldsTheClientUntilAServerAnswers(t *testing.T) {
	server := echoServer(t).Addr().String()
	f := start(t, server)
	f.silence(server, true)
	conn := f.connect(t)
	time.AfterFunc(300*time.Millisecond, func() { f.silence(server, false) })
	if got, err := ask(conn); err != nil || got != server {
		t.Errorf("got %q, %v; want an answer of %s once it is back", got, err, server)
	}
}

func TestClosesTheClientWhenAllStayDown(t *testing.T) {
	dead := echoServer(t)
	dead.Close()
	f := start(t, dead.Addr().String())
	if _, err := f.connect(t).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}

func TestPassesHalfClosedConnections(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(all)
	}()
	conn := start(t, listener.Addr().String()).connect(t)
	if _, err := io.WriteString(conn, "request"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "request" {
		t.Errorf("got %q, %v, want the request back", answer, err)
	}
}

func TestRunSaysWhyItCannotListen(t *testing.T) {
	taken := echoServer(t)
	if err := Run(t.Context(), taken.Addr().String(), nil, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("Run on a taken port returned nil")
	}
}
