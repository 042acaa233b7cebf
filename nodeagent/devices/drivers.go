package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"

	"clusterctl/nodeagent/plugins"
)

const (
	// driverTimeout bounds one call to a driver.
	driverTimeout = 45 * time.Second
	// absence is how long a driver may be away before what it offers counts as
	// gone: a restart takes less.
	absence    = 30 * time.Second
	wipeRetry  = 5 * time.Second
	wipeLonger = 5 * time.Minute
)

// services are the versions of the service that drivers may offer, best first.
// Their messages are the same on the wire.
var services = []struct{ version, name string }{
	{drav1.DRAPluginService, "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"},
	{drav1beta1.DRAPluginService, "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin"},
}

// Drivers are the DRA drivers of this host. It removes the ResourceSlices of
// drivers that are gone. Safe for concurrent use.
type Drivers struct {
	ctx    context.Context // of New
	client kubernetes.Interface
	node   string
	logger *slog.Logger

	absence time.Duration

	mu      sync.Mutex
	drivers map[string][]*driver // by name; the last that came is asked
	wipes   map[string]context.CancelFunc
	words   map[string]words    // on the health of devices, by driver
	told    func(driver string) // words on its devices have changed; nil: nobody asks
}

// driver is one process of a driver: there are two while it is updated.
type driver struct {
	name    string
	socket  string // of its registration
	service string
	conn    *grpc.ClientConn
	stop    context.CancelFunc
	up      bool
}

// NewDrivers knows no driver yet. What it does by itself ends with ctx.
func NewDrivers(ctx context.Context, client kubernetes.Interface, node string, logger *slog.Logger) *Drivers {
	return &Drivers{ctx: ctx, client: client, node: node, logger: logger, absence: absence,
		drivers: map[string][]*driver{}, wipes: map[string]context.CancelFunc{},
		words: map[string]words{}}
}

var _ plugins.Handler = (*Drivers)(nil)

// Register implements plugins.Handler.
func (d *Drivers) Register(_ context.Context, p plugins.Plugin) error {
	if p.Name == "" {
		return errors.New("invalid DRA plugin registration: a driver needs a name")
	}
	service := ""
	for _, s := range services {
		if slices.Contains(p.Versions, s.version) {
			service = s.name
			break
		}
	}
	if service == "" {
		return fmt.Errorf("invalid versions of plugin %s: none of %v is supported", p.Name, p.Versions)
	}
	conn, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(d.ctx)
	one := &driver{name: p.Name, socket: p.Socket, service: service, conn: conn, stop: stop, up: true}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drivers[p.Name] = append(d.drivers[p.Name], one)
	d.judge(p.Name)
	go d.watch(ctx, one)
	go d.listen(ctx, one)
	return nil
}

// Deregister implements plugins.Handler.
func (d *Drivers) Deregister(_ context.Context, p plugins.Plugin) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drivers[p.Name] = slices.DeleteFunc(d.drivers[p.Name], func(one *driver) bool {
		if one.socket != p.Socket {
			return false
		}
		one.stop()
		return true
	})
	if len(d.drivers[p.Name]) == 0 {
		delete(d.drivers, p.Name)
	}
	d.judge(p.Name)
}

// watch follows whether a driver's process is there: its socket may be left
// when it is not.
func (d *Drivers) watch(ctx context.Context, one *driver) {
	defer one.conn.Close()
	for {
		state := one.conn.GetState()
		up := state == connectivity.Ready
		if state == connectivity.Idle {
			one.conn.Connect()
		}
		if up || state == connectivity.TransientFailure {
			d.mu.Lock()
			if ctx.Err() == nil && one.up != up {
				one.up = up
				d.judge(one.name)
			}
			d.mu.Unlock()
		}
		if !one.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// judge begins to remove what a driver offers if it is away, and stops if it is
// back. d.mu is held.
func (d *Drivers) judge(name string) {
	there := slices.ContainsFunc(d.drivers[name], func(one *driver) bool { return one.up })
	cancel := d.wipes[name]
	switch {
	case there && cancel != nil:
		cancel()
		delete(d.wipes, name)
	case !there && cancel == nil:
		ctx, cancel := context.WithCancel(d.ctx)
		d.wipes[name] = cancel
		go d.wipe(ctx, name)
	}
}

// wipe removes the slices of a driver of this node, once it has been away for
// long enough. It tries until that worked, or the driver is back.
func (d *Drivers) wipe(ctx context.Context, name string) {
	wait, retry := d.absence, wipeRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := d.client.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: fields.Set{
			resourcev1.ResourceSliceSelectorNodeName: d.node, resourcev1.ResourceSliceSelectorDriver: name}.String()})
		if err == nil {
			d.logger.Info("removed the ResourceSlices of a driver that is gone", "driver", name)
			return
		}
		if ctx.Err() == nil {
			d.logger.Warn("cannot remove the ResourceSlices of a driver that is gone", "driver", name, "error", err)
		}
		wait, retry = retry, min(2*retry, wipeLonger)
	}
}

// Run removes the slices of drivers that went while the agent was not there,
// and ends with ctx.
func (d *Drivers) Run(ctx context.Context) error {
	for wait := wipeRetry; ; wait = min(2*wait, wipeLonger) {
		list, err := d.client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: resourcev1.ResourceSliceSelectorNodeName + "=" + d.node})
		if err == nil {
			d.mu.Lock()
			for i := range list.Items {
				d.judge(list.Items[i].Spec.Driver)
			}
			d.mu.Unlock()
			break
		}
		if ctx.Err() == nil {
			d.logger.Warn("cannot look for ResourceSlices of drivers that are gone", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
	<-ctx.Done()
	return nil
}

// known says whether a driver is registered.
func (d *Drivers) known(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.drivers[name]) > 0
}

// call asks the newest process of a driver that is there.
func (d *Drivers) call(ctx context.Context, name, method string, request, response any) error {
	d.mu.Lock()
	list := d.drivers[name]
	var one *driver
	for _, candidate := range slices.Backward(list) {
		if one == nil || candidate.up && !one.up {
			one = candidate
		}
	}
	d.mu.Unlock()
	if one == nil {
		return fmt.Errorf("DRA driver %s is not registered", name)
	}
	ctx, cancel := context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	if err := one.conn.Invoke(ctx, "/"+one.service+"/"+method, request, response, grpc.WaitForReady(false)); err != nil {
		return fmt.Errorf("%s of driver %s: %w", method, name, err)
	}
	return nil
}
