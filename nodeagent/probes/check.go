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
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
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
	Ending      bool // the pod ends: it is of no interest any more how the container lives
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
	var doubt string
	var failed error
	switch {
	case p.HTTPGet != nil:
		if _, err := Port(p.HTTPGet.Port, t.Container); err != nil {
			return failure, "", err
		}
		var response *answer
		if response, failed = httpGet(ctx, t, p.HTTPGet, "kube-probe/1.36", timeout); failed == nil {
			doubt, failed = response.judge()
		}
	case p.TCPSocket != nil:
		port, err := Port(p.TCPSocket.Port, t.Container)
		if err != nil {
			return failure, "", err
		}
		failed = checkTCP(ctx, t, p.TCPSocket.Host, port, timeout)
	case p.GRPC != nil:
		failed = checkGRPC(ctx, t, p.GRPC, timeout)
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

// HTTPGet sends the request of an httpGet action of a lifecycle hook. Any answer
// will do. A server that speaks no TLS is asked in plain text: it is named then.
func HTTPGet(ctx context.Context, t Target, action *v1.HTTPGetAction) (plain string, err error) {
	const agent = "kube-lifecycle/1.36"
	_, err = httpGet(ctx, t, action, agent, 0)
	if err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return "", err
	}
	again := *action
	again.Scheme = v1.URISchemeHTTP
	again.HTTPHeaders = slices.DeleteFunc(slices.Clone(action.HTTPHeaders), func(h v1.HTTPHeader) bool {
		return strings.EqualFold(h.Name, "Authorization") // nobody shall overhear it
	})
	response, retry := httpGet(ctx, t, &again, agent, 0)
	if retry != nil {
		return "", err
	}
	return response.host, nil
}

// answer is what a server said.
type answer struct {
	host string // and port, that were asked
	code int
	body string // its beginning
}

// judge says what is wrong with the answer, or doubtful.
func (a *answer) judge() (doubt string, err error) {
	switch {
	case a.code < 200 || a.code >= 400:
		return "", fmt.Errorf("HTTP probe failed with statuscode: %d", a.code)
	case a.code >= 300: // it leads elsewhere, where nobody goes
		return "Probe terminated redirects, Response body: " + a.body, nil
	}
	return "", nil
}

// httpGet asks; a timeout of 0 is ctx's.
func httpGet(ctx context.Context, t Target, action *v1.HTTPGetAction, agent string, timeout time.Duration) (*answer, error) {
	port, err := Port(action.Port, t.Container)
	if err != nil {
		return nil, err
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
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	setHeaders(request, action.HTTPHeaders, agent)
	client := &http.Client{
		Timeout: timeout,
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
		return nil, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	_, _ = io.Copy(&body, io.LimitReader(response.Body, maxBody))
	return &answer{host: target.Host, code: response.StatusCode, body: body.String()}, nil
}

func setHeaders(request *http.Request, headers []v1.HTTPHeader, agent string) {
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
}

func checkTCP(ctx context.Context, t Target, host string, port int, timeout time.Duration) error {
	if host == "" {
		host = t.PodIP
	}
	conn, err := (&net.Dialer{KeepAlive: -1, Timeout: timeout}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func checkGRPC(ctx context.Context, t Target, action *v1.GRPCAction, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	address := net.JoinHostPort(t.PodIP, strconv.Itoa(int(action.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.36"))
	if err != nil {
		return fmt.Errorf("error: failed to connect service at %q: %+v", address, err)
	}
	defer conn.Close()
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("timeout: failed to connect service %q within %v: %+v", address, timeout, ctx.Err())
		}
	}
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return fmt.Errorf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("timeout: health rpc did not complete within %v", timeout)
	default:
		return fmt.Errorf("error: health rpc probe failed: %+v", err)
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
