package sources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Row is an object as the API server prints it.
type Row struct {
	UID, Namespace, Name string
	Created              time.Time
	Cells                []string
}

// Batch is what changed in a watched table since the last one.
type Batch struct {
	Columns []string // set with Reset
	Reset   bool     // Rows are all there are
	Rows    []Row    // added or changed
	Gone    []string // UIDs
	Err     error    // the connection is lost and tried again; what is shown stays
}

// Times of a watch: changes are gathered for the first, and a lost connection
// is tried again after the second, doubling to the third.
const (
	gather     = 150 * time.Millisecond
	retryFirst = 500 * time.Millisecond
	retryMost  = 10 * time.Second
)

const tableAccept = "application/json;as=Table;v=v1;g=meta.k8s.io"

// Watch sends the rows of a resource in a namespace (empty: in all) and then
// their changes, until ctx ends, which closes the channel. The columns are the
// API server's, so that every kind is shown as kubectl shows it.
func (c *Cluster) Watch(ctx context.Context, r Resource, namespace string) <-chan Batch {
	out := make(chan Batch)
	go func() {
		defer close(out)
		wait := retryFirst
		for ctx.Err() == nil {
			started := time.Now()
			err := c.watchOnce(ctx, r, namespace, out)
			if ctx.Err() != nil {
				return
			}
			if time.Since(started) > retryMost {
				wait = retryFirst
			}
			if err != nil && !send(ctx, out, Batch{Err: err}) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, retryMost)
		}
	}()
	return out
}

func send(ctx context.Context, out chan<- Batch, b Batch) bool {
	select {
	case out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// restClient speaks of r's group and version.
func (c *Cluster) restClient(r Resource) (rest.Interface, error) {
	config := rest.CopyConfig(c.config)
	gv := r.GroupVersion()
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	if r.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	return rest.RESTClientFor(config)
}

// watchOnce lists and watches until the connection ends.
func (c *Cluster) watchOnce(ctx context.Context, r Resource, namespace string, out chan<- Batch) error {
	client, err := c.restClient(r)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	request := func() *rest.Request {
		return client.Get().NamespaceIfScoped(namespace, r.Namespaced && namespace != "").Resource(r.Resource).SetHeader("Accept", tableAccept)
	}
	raw, err := request().Do(ctx).Raw()
	if err != nil {
		return err
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil {
		return fmt.Errorf("read table: %w", err)
	}
	rows, err := rowsOf(&table)
	if err != nil {
		return err
	}
	first := Batch{Reset: true, Rows: rows}
	columns := table.ColumnDefinitions
	for _, column := range columns {
		first.Columns = append(first.Columns, column.Name)
	}
	if !send(ctx, out, first) {
		return nil
	}
	stream, err := request().Param("watch", "true").Param("resourceVersion", table.ResourceVersion).Param("allowWatchBookmarks", "true").Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	return follow(ctx, stream, out)
}

// tableEvent is a line of a watch.
type tableEvent struct {
	Type   watch.EventType `json:"type"`
	Object json.RawMessage `json:"object"`
}

// follow gathers a watch's events into batches.
func follow(ctx context.Context, stream io.Reader, out chan<- Batch) error {
	events := make(chan tableEvent)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		decoder := json.NewDecoder(stream)
		for {
			var e tableEvent
			if err := decoder.Decode(&e); err != nil {
				ended <- err
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	var batch Batch
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil // the server ends every watch after a while
			}
			return fmt.Errorf("connection lost: %w", err)
		case <-due:
			due = nil
			if !send(ctx, out, batch) {
				return nil
			}
			batch = Batch{}
		case e := <-events:
			if err := batch.take(e); err != nil {
				return err
			}
			if due == nil {
				due = time.After(gather)
			}
		}
	}
}

func (b *Batch) take(e tableEvent) error {
	if e.Type == watch.Bookmark {
		return nil
	}
	if e.Type == watch.Error {
		var status metav1.Status
		if err := json.Unmarshal(e.Object, &status); err != nil {
			return fmt.Errorf("read the watch's error: %w", err)
		}
		if status.Code == http.StatusGone {
			return nil // listed anew
		}
		return errors.New(status.Message)
	}
	var table metav1.Table
	if err := json.Unmarshal(e.Object, &table); err != nil {
		return fmt.Errorf("read table: %w", err)
	}
	rows, err := rowsOf(&table)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if e.Type == watch.Deleted {
			b.Gone = append(b.Gone, row.UID)
		} else {
			b.Rows = append(b.Rows, row)
		}
	}
	return nil
}

func rowsOf(table *metav1.Table) ([]Row, error) {
	rows := make([]Row, 0, len(table.Rows))
	for _, r := range table.Rows {
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(r.Object.Raw, &object); err != nil {
			return nil, fmt.Errorf("read row: %w", err)
		}
		row := Row{UID: string(object.UID), Namespace: object.Namespace, Name: object.Name, Created: object.CreationTimestamp.Time, Cells: make([]string, len(r.Cells))}
		for i, cell := range r.Cells {
			if cell != nil {
				row.Cells[i] = fmt.Sprint(cell)
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}
