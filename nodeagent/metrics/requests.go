package metrics

import (
	"context"
	"net/url"
	"time"

	clientmetrics "k8s.io/client-go/tools/metrics"
)

// CountRequests has client-go count the process's requests to the API here.
func (a *Agent) CountRequests() {
	clientmetrics.Register(clientmetrics.RegisterOpts{RequestResult: results{a}, RequestLatency: latencies{a}})
}

type results struct{ *Agent }

func (r results) Increment(_ context.Context, code, method, host string) {
	r.requests.WithLabelValues(code, method, host).Inc()
}

type latencies struct{ *Agent }

func (l latencies) Observe(_ context.Context, verb string, u url.URL, latency time.Duration) {
	l.requestDurations.WithLabelValues(verb, u.Host).Observe(latency.Seconds())
}
