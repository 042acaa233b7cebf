package apilb

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// The endpoint slice in which the API servers keep who of them serves.
const sliceNamespace, sliceName = metav1.NamespaceDefault, "kubernetes"

// Learned is the list of servers that the configuration names, and of those
// that the cluster says serve. The former stay, whatever the cluster says: a
// server that is down is not among the latter, and may be the next to come back.
// What was learnt lies in a file, for a start when nobody of the configuration
// is there any more.
type Learned struct {
	configured []string
	file       string
	log        *slog.Logger
	updates    chan []string // has the latest list that was not read

	serving []string // as last learnt; the informer's handler's alone after New
}

// Learn reads what was learnt before. A file that is not there or cannot be read
// is as good as none: nothing but the configuration is known then.
func Learn(configured []string, file string, log *slog.Logger) *Learned {
	l := &Learned{configured: configured, file: file, log: log, updates: make(chan []string, 1)}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &l.serving)
	}
	if err != nil && !os.IsNotExist(err) {
		log.Warn("what was learnt of API servers cannot be read: those of the configuration are used", "file", file, "error", err)
		l.serving = nil
	}
	return l
}

// Servers is the list to begin with. It is to be called before Follow.
func (l *Learned) Servers() []string { return l.all() }

// Updates has the whole list each time that it changes; a list that nobody read
// gives way to the next one.
func (l *Learned) Updates() <-chan []string { return l.updates }

// Follow learns from an informer of endpoint slices, as long as that runs.
func (l *Learned) Follow(slices cache.SharedIndexInformer) error {
	_, err := slices.AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool {
			slice, ok := obj.(*discoveryv1.EndpointSlice)
			return ok && slice.Namespace == sliceNamespace && slice.Name == sliceName
		},
		// A slice that is gone says nothing about the servers.
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { l.learn(obj.(*discoveryv1.EndpointSlice)) },
			UpdateFunc: func(_, obj any) { l.learn(obj.(*discoveryv1.EndpointSlice)) },
		},
	})
	if err != nil {
		return fmt.Errorf("watch the API servers' endpoints: %w", err)
	}
	return nil
}

// all is everybody, each once, in an order that says nothing.
func (l *Learned) all() []string {
	all := slices.Concat(l.configured, l.serving)
	slices.Sort(all)
	return slices.Compact(all)
}

func (l *Learned) learn(slice *discoveryv1.EndpointSlice) {
	serving := servers(slice)
	if len(serving) == 0 || slices.Equal(serving, l.serving) {
		return
	}
	before := l.all()
	l.serving = serving
	if err := l.save(); err != nil {
		l.log.Warn("what was learnt of API servers is not kept for the next start", "error", err)
	}
	now := l.all()
	if slices.Equal(now, before) {
		return
	}
	l.log.Info("the API servers have changed", "servers", now)
	select {
	case <-l.updates:
	default:
	}
	l.updates <- now // has room: nobody else sends
}

// servers are those of a slice that are ready, as host:port, sorted.
func servers(slice *discoveryv1.EndpointSlice) (list []string) {
	for _, port := range slice.Ports {
		if port.Port == nil || ptr.Deref(port.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if !ptr.Deref(endpoint.Conditions.Ready, true) {
				continue
			}
			for _, address := range endpoint.Addresses {
				list = append(list, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// save replaces the file as a whole.
func (l *Learned) save() error {
	text, err := json.Marshal(l.serving)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.file), 0o700); err != nil {
		return err
	}
	fresh := l.file + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, l.file)
}
