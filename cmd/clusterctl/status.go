package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// clusterStatus is what `clusterctl status` tells.
type clusterStatus struct {
	Cluster string             `json:"cluster"`
	Version string             `json:"version"`
	Hosts   []hostStatus       `json:"hosts"`
	Etcd    *hostop.EtcdStatus `json:"etcd,omitempty"`
	Nodes   []nodeStatus       `json:"nodes"`
	Errors  []string           `json:"errors,omitempty"`
}

type hostStatus struct {
	Name     string            `json:"name"`
	Address  string            `json:"address"`
	Roles    []inventory.Role  `json:"roles"`
	Version  string            `json:"version"` // installed
	Services map[string]string `json:"services"`
	Error    string            `json:"error,omitempty"`
}

type nodeStatus struct {
	Name    string `json:"name"`
	Ready   string `json:"ready"` // True, False or Unknown
	Version string `json:"version"`
	Runtime string `json:"runtime"`
	Message string `json:"message,omitempty"` // where it is not Ready
}

func newStatusCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "status INVENTORY",
		Short: "Show hosts, services, etcd members and nodes",
		Example: `  clusterctl status inventory.yaml
  clusterctl status inventory.yaml -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			inv, err := inventory.Load(args[0])
			if err != nil {
				return err
			}
			f, connectErr := connectTo(c.Context(), inv)
			if f == nil {
				return connectErr
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			status := f.status(c.Context(), connectErr)
			if output == "json" {
				encoder := json.NewEncoder(c.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(status)
			} else {
				err = status.print(c.OutOrStdout())
			}
			if err == nil && len(status.Errors) > 0 {
				return exitError{code: 2}
			}
			return err
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json; the exit code is 2 where something is wrong")
	return c
}

// statusTimeout bounds each question asked for a status.
const statusTimeout = 10 * time.Second

func (f *fleet) status(ctx context.Context, connectErr error) clusterStatus {
	status := clusterStatus{Cluster: f.inventory.Cluster.Name, Version: hostconfig.Version}
	if connectErr != nil {
		status.Errors = append(status.Errors, strings.Split(connectErr.Error(), "\n")...)
	}
	hosts := f.inventory.Present()
	status.Hosts = make([]hostStatus, len(hosts))
	var group sync.WaitGroup
	for i, h := range hosts {
		status.Hosts[i] = hostStatus{Name: h.Name, Address: h.Address, Roles: h.Roles}
		if f.hands[h.Name] == nil {
			status.Hosts[i].Error = "unreachable"
			continue
		}
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			var facts hostop.Facts
			if err := f.call(ctx, h.Name, hostop.MethodFacts, nil, &facts); err != nil {
				status.Hosts[i].Error = err.Error()
				return
			}
			status.Hosts[i].Version, status.Hosts[i].Services = facts.Installed, facts.Services
		})
	}
	group.Wait()
	for _, h := range f.inventory.EtcdMembers() {
		if f.hands[h.Name] == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		var etcd hostop.EtcdStatus
		err := f.call(ctx, h.Name, hostop.MethodEtcd, nil, &etcd)
		cancel()
		if err == nil {
			status.Etcd = &etcd
			break
		}
		status.Errors = append(status.Errors, fmt.Sprintf("etcd on %s: %v", h.Name, err))
	}
	nodes, err := f.nodes(ctx)
	if err != nil {
		status.Errors = append(status.Errors, err.Error())
	}
	status.Nodes = nodes
	return status
}

// nodes asks the API of the first control plane that answers.
func (f *fleet) nodes(ctx context.Context) ([]nodeStatus, error) {
	config, err := f.adminConfig(ctx)
	if err != nil {
		return nil, err
	}
	failure := errors.New("no control plane")
	for _, h := range f.inventory.ControlPlanes() {
		rest, err := f.through(config, h)
		if err != nil {
			return nil, err
		}
		rest.Timeout = statusTimeout
		client, err := kubernetes.NewForConfig(rest)
		if err != nil {
			return nil, fmt.Errorf("make a client: %w", err)
		}
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			failure = fmt.Errorf("list nodes through %s: %w", h.Name, err)
			continue
		}
		var nodes []nodeStatus
		for i := range list.Items {
			nodes = append(nodes, newNodeStatus(&list.Items[i]))
		}
		return nodes, nil
	}
	return nil, failure
}

// through reaches the API server of one control plane, with the administrator's
// credentials.
func (f *fleet) through(config *api.Config, h inventory.Host) (*rest.Config, error) {
	through, err := clientcmd.NewNonInteractiveClientConfig(*config, config.CurrentContext+"@"+h.Name, nil, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("use the administrator's credentials: %w", err)
	}
	if r := f.hands[h.Name]; r != nil {
		through.Dial = r.DialHost // works where only SSH gets through
	}
	through.QPS = -1 // the server's own limits hold
	return through, nil
}

func newNodeStatus(node *v1.Node) nodeStatus {
	s := nodeStatus{
		Name: node.Name, Ready: string(v1.ConditionUnknown),
		Version: node.Status.NodeInfo.KubeletVersion, Runtime: node.Status.NodeInfo.ContainerRuntimeVersion,
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1.NodeReady {
			s.Ready = string(condition.Status)
			if condition.Status != v1.ConditionTrue {
				s.Message = condition.Message
			}
		}
	}
	return s
}

// shortUnits are the columns of services; a host has one of the runtimes.
var shortUnits = []struct{ heading, unit, or string }{
	{"ETCD", hostconfig.UnitEtcd, ""},
	{"CONTROL PLANE", hostconfig.UnitControlPlane, ""},
	{"RUNTIME", hostconfig.UnitContainerd, hostconfig.UnitCRIO},
	{"NODE AGENT", hostconfig.UnitNodeAgent, ""},
}

func (s clusterStatus) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Cluster %s\n\nHOST\tADDRESS\tROLES\tINSTALLED", s.Cluster)
	for _, u := range shortUnits {
		fmt.Fprintf(w, "\t%s", u.heading)
	}
	fmt.Fprintln(w)
	for _, h := range s.Hosts {
		roles := make([]string, len(h.Roles))
		for i, r := range h.Roles {
			roles[i] = string(r)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s", h.Name, h.Address, strings.Join(roles, ","), orDash(h.Version))
		for _, u := range shortUnits {
			fmt.Fprintf(w, "\t%s", orDash(cmp.Or(h.Services[u.unit], h.Services[u.or])))
		}
		fmt.Fprintf(w, "\t%s\n", h.Error)
	}
	if s.Etcd != nil {
		fmt.Fprintf(w, "\nETCD MEMBER\tID\tSTATE\tHEALTH\tVERSION\tDB SIZE\n")
		for _, m := range s.Etcd.Members {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.1f MB\n", m.Name, m.ID, memberState(m), memberHealth(m), orDash(m.Version), float64(m.DBSize)/1e6)
		}
	}
	fmt.Fprintf(w, "\nNODE\tSTATE\tVERSION\tRUNTIME\n")
	for _, n := range s.Nodes {
		state := map[string]string{"True": "Ready", "False": "NotReady"}[n.Ready]
		if state == "" {
			state = "Unknown"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Name, state, n.Version, n.Runtime, n.Message)
	}
	for _, e := range s.Errors {
		fmt.Fprintf(w, "\n! %s", e)
	}
	if len(s.Errors) > 0 {
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func memberState(m hostop.EtcdMemberStatus) string {
	switch {
	case m.Leader:
		return "leader"
	case m.Learner:
		return "learner"
	}
	return "follower"
}

func memberHealth(m hostop.EtcdMemberStatus) string {
	if m.Healthy {
		return "healthy"
	}
	return "unhealthy: " + m.Error
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
