package host

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// checkReady asks once.
func (h *Hand) checkReady(ctx context.Context, o *hostop.Ready) (string, error) {
	client, err := h.httpsClient(o)
	if errors.Is(err, os.ErrNotExist) {
		return "its certificates are absent", nil
	}
	if err != nil {
		return "", err
	}
	defer client.CloseIdleConnections()
	return ask(ctx, client, o.URL)
}

// applyReady waits. A unit of ours behind the address that keeps falling over
// ends the waiting, since more time would not help.
func (h *Hand) applyReady(ctx context.Context, o *hostop.Ready, progress func(string)) error {
	client, err := h.httpsClient(o)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	unit := unitBehind(o.URL)
	err = until(ctx, o.Timeout, 100*time.Millisecond, progress, func(ctx context.Context) (string, error) {
		differs, err := ask(ctx, client, o.URL)
		if err != nil || differs == "" || unit == "" {
			return differs, err
		}
		if status, err := h.init.Status(ctx, unit); err == nil && status.Installed && (status.Active == "failed" || status.Restarts > 3) {
			return "", &finalError{fmt.Errorf("%s does not stay up", unit)}
		}
		return differs, nil
	})
	if err != nil && unit != "" {
		return h.withJournal(ctx, unit, err)
	}
	return err
}

// unitBehind is the unit of this host that serves a local address.
func unitBehind(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	switch u.Port() {
	case strconv.Itoa(hostconfig.PortAPI):
		return hostconfig.UnitControlPlane
	case strconv.Itoa(hostconfig.PortAPILB), strconv.Itoa(hostconfig.PortNodeAgent):
		return hostconfig.UnitNodeAgent
	case strconv.Itoa(hostconfig.PortEtcdClient):
		return hostconfig.UnitEtcd
	}
	return ""
}

func (h *Hand) httpsClient(o *hostop.Ready) (*http.Client, error) {
	anchor, err := os.ReadFile(h.path(o.CAFile))
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !config.RootCAs.AppendCertsFromPEM(anchor) {
		return nil, fmt.Errorf("read CA: %s holds no certificate", o.CAFile)
	}
	if o.Cert != "" {
		pair, err := tls.LoadX509KeyPair(h.path(o.Cert), h.path(o.Key))
		if err != nil {
			return nil, fmt.Errorf("read client pair: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	// No proxy of the environment stands between a host and itself.
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}, Timeout: 3 * time.Second}, nil
}

func ask(ctx context.Context, client *http.Client, address string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", address, err)
	}
	response, err := client.Do(request)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return "does not answer: " + oneLine(err.Error()), nil
	}
	defer response.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(response.Body, 300))
	if response.StatusCode != http.StatusOK {
		return oneLine(fmt.Sprintf("answers %s: %s", response.Status, said)), nil
	}
	return "", nil
}
