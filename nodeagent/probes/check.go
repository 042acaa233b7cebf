package probes

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	criclient "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"
)

// Exec runs a command in a container and returns what it printed; a command
// that ran and failed is a utilexec.ExitError.
type Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) ([]byte, error)

// Target is a running container of a pod.
type Target struct {
	Pod         *v1.Pod
	Container   *v1.Container
	ContainerID string
	PodIP       string
}

const maxBody = 10 << 10

// outcome is what an attempt says of a container.
type outcome int

const (
	failure outcome = iota
	success
	warning // a success that its author should know of
)

// attempts is how often is tried what cannot be tried at all.
const attempts = 3

// check makes one attempt. The message says why it failed, or what to be warned
// of. An error is of the attempt itself, and says nothing of the container.
func check(ctx context.Context, exec Exec, t Target, p *v1.Probe) (is outcome, message string, err error) {
	for range attempts {
		if is, message, err = attempt(ctx, exec, t, p); err == nil || ctx.Err() != nil {
			break
		}
	}
	return is, message, err
}

func attempt(ctx context.Context, exec Exec, t Target, p *v1.Probe) (is outcome, message string, err error) {
	timeout := seconds(p.TimeoutSeconds, 1)
	if p.Exec != nil {
		return checkExec(ctx, exec, t, p.Exec, timeout) // the runtime keeps the time
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var doubt string
	var failed error
	switch {
	case p.HTTPGet != nil:
		if _, err := Port(p.HTTPGet.Port, t.Container); err != nil {
			return failure, "", err
		}
		doubt, failed = httpGet(ctx, t, p.HTTPGet, "kube-probe/1.36", false)
	case p.TCPSocket != nil:
		port, err := Port(p.TCPSocket.Port, t.Container)
		if err != nil {
			return failure, "", err
		}
		failed = checkTCP(ctx, t, p.TCPSocket.Host, port)
	case p.GRPC != nil:
		failed = checkGRPC(ctx, t, p.GRPC)
	default:
		return failure, "", errors.New("the probe has no handler")
	}
	switch {
	case failed != nil:
		return failure, failed.Error(), nil
	case doubt != "":
		return warning, doubt, nil
	}
	return success, "", nil
}

func checkExec(ctx context.Context, exec Exec, t Target, action *v1.ExecAction, timeout time.Duration) (outcome, string, error) {
	out, err := exec(ctx, t.ContainerID, action.Command, timeout)
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return success, "", nil
	case errors.As(err, &exit):
		return failure, string(out[:min(len(out), maxBody)]), nil
	case errors.Is(err, criclient.ErrCommandTimedOut):
		return failure, err.Error(), nil
	}
	return failure, "", err
}

// HTTPGet sends the request of an httpGet action of a lifecycle hook. Answers
// from 200 to 399 are successes; a server that speaks no TLS is asked in plain
// text.
func HTTPGet(ctx context.Context, t Target, action *v1.HTTPGetAction) error {
	_, err := httpGet(ctx, t, action, "kube-lifecycle/1.36", true)
	return err
}

// httpGet says besides what is doubtful of a success.
func httpGet(ctx context.Context, t Target, action *v1.HTTPGetAction, agent string, lenient bool) (doubt string, err error) {
	port, err := Port(action.Port, t.Container)
	if err != nil {
		return "", err
	}
	host := action.Host
	if host == "" {
		host = t.PodIP
	}
	scheme := strings.ToLower(string(action.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	target, err := url.Parse(action.Path)
	if err != nil {
		target = &url.URL{Path: action.Path}
	}
	target.Scheme, target.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	doubt, err = get(ctx, target, action.HTTPHeaders, agent)
	if err != nil && lenient && scheme == "https" && strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		target.Scheme = "http"
		return get(ctx, target, action.HTTPHeaders, agent)
	}
	return doubt, err
}

func get(ctx context.Context, target *url.URL, headers []v1.HTTPHeader, agent string) (doubt string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("User-Agent", agent)
	request.Header.Set("Accept", "*/*")
	for _, h := range headers {
		if strings.EqualFold(h.Name, "host") {
			request.Host = h.Value
		}
		request.Header.Add(h.Name, h.Value)
		if n := strings.ToLower(h.Name); n == "user-agent" || n == "accept" {
			request.Header.Set(h.Name, h.Value)
		}
	}
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // a container's certificate names no pod
			DisableKeepAlives:  true,
			DisableCompression: true,
			DialContext:        (&net.Dialer{KeepAlive: -1}).DialContext,
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != target.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	_, _ = io.Copy(&body, io.LimitReader(response.Body, maxBody))
	switch {
	case response.StatusCode < 200 || response.StatusCode >= 400:
		return "", fmt.Errorf("HTTP probe failed with statuscode: %d", response.StatusCode)
	case response.StatusCode >= 300: // it leads elsewhere, where nobody goes
		return "Probe terminated redirects, Response body: " + body.String(), nil
	}
	return "", nil
}

func checkTCP(ctx context.Context, t Target, host string, port int) error {
	if host == "" {
		host = t.PodIP
	}
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func checkGRPC(ctx context.Context, t Target, action *v1.GRPCAction) error {
	address := net.JoinHostPort(t.PodIP, strconv.Itoa(int(action.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.36"))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}
	defer conn.Close()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		return fmt.Errorf("gRPC health check of service %q at %s: %w", service, address, err)
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", answer.Status)
	}
	return nil
}

// Port resolves a port that may be the name of one of the container's.
func Port(port intstr.IntOrString, c *v1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port %s", port.String())
	}
	return n, nil
}

func seconds(n, fallback int32) time.Duration {
	if n < 1 {
		n = fallback
	}
	return time.Duration(n) * time.Second
}
