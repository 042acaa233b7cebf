package apiserver

import (
	"runtime"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/flowcontrol"
)

// Requests that are served at once, watches apart. Kubernetes serves 600 on any
// machine; a small one only gets slower and larger by so many.
const (
	seatsPerCPU = 150
	leastSeats  = 300
	mostSeats   = 600
)

// share makes requests wait for their turn when there are too many, by the
// FlowSchemas and PriorityLevelConfigurations of the cluster: nobody's flood
// keeps others out.
func (s *Server) share(config *genericapiserver.Config) {
	seats := min(max(seatsPerCPU*runtime.GOMAXPROCS(0), leastSeats), mostSeats)
	config.MaxMutatingRequestsInFlight = seats / 3
	config.MaxRequestsInFlight = seats - config.MaxMutatingRequestsInFlight
	config.FlowControl = flowcontrol.New(s.informers, s.client.FlowcontrolV1(), seats)
}
