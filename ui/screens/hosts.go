package screens

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/ui/components"
	"clusterctl/ui/keys"
	"clusterctl/ui/sources"
)

// askAgain is how often hosts are asked while they are shown: over SSH there is
// nothing to watch.
const askAgain = 5 * time.Second

// Machines shows hosts or etcd members, asked again and again while shown.
type Machines struct {
	title  string
	table  *components.Table
	ask    func(context.Context) (answer, error)
	status string
	err    error
	turn   int
	stop   context.CancelFunc
}

var _ Screen = (*Machines)(nil)

// answer is what was asked for, ready to be shown.
type answer struct {
	rows   []components.Row
	status string
}

// answered brings an answer back, with the context of its turn for the next
// question.
type answered struct {
	ctx    context.Context
	owner  *Machines
	turn   int
	answer answer
	err    error
}

// NewHosts shows the machines below the cluster.
func NewHosts(hosts sources.Hosts) *Machines {
	m := &Machines{title: "hosts", table: components.NewTable(), ask: func(ctx context.Context) (answer, error) {
		list, err := hosts.Hosts(ctx)
		return hostRows(list), err
	}}
	m.table.SetColumns([]string{"HOST", "ADDRESS", "ROLES", "STATE", "ETCD", "CONTROL PLANE", "RUNTIME", "NODE AGENT", "MEMORY", "DISK FREE", "INSTALLED"})
	return m
}

func hostRows(list []sources.Host) answer {
	var a answer
	reachable := 0
	for _, h := range list {
		if h.State == "reachable" {
			reachable++
		}
		cells := []string{h.Name, h.Address, h.Roles, h.State}
		for _, unit := range []string{hostconfig.UnitEtcd, hostconfig.UnitControlPlane, hostconfig.UnitContainerd, hostconfig.UnitNodeAgent} {
			service := h.Services[unit]
			if unit == hostconfig.UnitContainerd {
				service = cmp.Or(service, h.Services[hostconfig.UnitCRIO])
			}
			cells = append(cells, service)
		}
		a.rows = append(a.rows, components.Row{ID: h.Name, Cells: append(cells, gigabytes(h.Memory), gigabytes(h.DiskFree), h.Version)})
	}
	a.status = fmt.Sprintf("%d of %d reachable", reachable, len(list))
	return a
}

// NewEtcd shows the etcd members and whether they have a quorum.
func NewEtcd(hosts sources.Hosts) *Machines {
	m := &Machines{title: "etcd", table: components.NewTable(), ask: func(ctx context.Context) (answer, error) {
		status, err := hosts.Etcd(ctx)
		return memberRows(status), err
	}}
	m.table.SetColumns([]string{"MEMBER", "ROLE", "HEALTH", "PEER", "VERSION", "DB SIZE", "REVISION", "ID"})
	return m
}

func memberRows(status hostop.EtcdStatus) answer {
	var a answer
	voters, healthy := 0, 0
	for _, m := range status.Members {
		role := "follower"
		switch {
		case m.Leader:
			role = "leader"
		case m.Learner:
			role = "learner"
		}
		health := "healthy"
		if !m.Healthy {
			health = "failed"
		}
		if !m.Learner {
			voters++
			if m.Healthy {
				healthy++
			}
		}
		a.rows = append(a.rows, components.Row{ID: m.ID, Cells: []string{
			m.Name, role, health, m.PeerURL, m.Version, fmt.Sprintf("%.1f MB", float64(m.DBSize)/1e6), fmt.Sprint(m.Revision), m.ID,
		}})
	}
	quorum := voters/2 + 1
	switch {
	case voters == 0:
		a.status = "no member answers"
	case healthy < quorum:
		a.status = fmt.Sprintf("no quorum: %d of %d voters healthy, %d needed", healthy, voters, quorum)
	default:
		a.status = fmt.Sprintf("quorum: %d of %d voters healthy, %d may fail", healthy, voters, healthy-quorum)
	}
	return a
}

func gigabytes(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

func (m *Machines) Title() string { return m.title }

func (m *Machines) Status() string {
	if m.err != nil {
		return m.err.Error()
	}
	return m.status
}

func (m *Machines) Show() tea.Cmd {
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	m.turn++
	return m.asking(ctx, 0)
}

func (m *Machines) asking(ctx context.Context, after time.Duration) tea.Cmd {
	turn := m.turn
	return func() tea.Msg {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(after):
		}
		bounded, cancel := context.WithTimeout(ctx, actTimeout)
		defer cancel()
		a, err := m.ask(bounded)
		if ctx.Err() != nil {
			return nil
		}
		return answered{ctx: ctx, owner: m, turn: turn, answer: a, err: err}
	}
}

func (m *Machines) Hide() { m.stop() }

func (m *Machines) Update(msg tea.Msg, height int) tea.Cmd {
	switch msg := msg.(type) {
	case answered:
		if msg.owner != m || msg.turn != m.turn {
			return nil
		}
		m.err = msg.err
		if msg.err == nil || len(msg.answer.rows) > 0 {
			m.status = msg.answer.status
			m.table.Replace(msg.answer.rows)
		}
		return m.asking(msg.ctx, askAgain)
	case tea.KeyPressMsg:
		m.table.Update(msg, height)
	}
	return nil
}

func (m *Machines) View(width, height int) string { return m.table.View(width, height) }
func (m *Machines) Keys() []key.Binding           { return []key.Binding{keys.Filter, keys.Sort, keys.Reverse} }
func (m *Machines) SetFilter(text string)         { m.table.SetFilter(text) }
func (m *Machines) Filter() string                { return m.table.Filter() }
