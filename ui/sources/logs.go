package sources

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LogBatch is what came since the last one.
type LogBatch struct {
	Lines []string
	Err   error // of one container; others go on
}

// logTail is how far back logs begin.
const logTail = 500

// Logs follows the logs of a pod's containers, and closes the channel when all
// have ended or ctx has. Lines of pods with several containers begin with the
// container's name. previous shows what containers said before their last
// restart.
func (c *Cluster) Logs(ctx context.Context, namespace, pod string, previous bool) (<-chan LogBatch, error) {
	object, err := c.client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, container := range append(append([]v1.Container(nil), object.Spec.InitContainers...), object.Spec.Containers...) {
		names = append(names, container.Name)
	}
	lines := make(chan LogBatch)
	var group sync.WaitGroup
	for _, name := range names {
		prefix := ""
		if len(names) > 1 {
			prefix = name + " │ "
		}
		group.Go(func() {
			if err := c.follow(ctx, namespace, pod, name, prefix, previous, lines); err != nil && ctx.Err() == nil {
				select {
				case lines <- LogBatch{Err: fmt.Errorf("%s: %w", name, err)}:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		group.Wait()
		close(lines)
	}()
	return lines, nil
}

func (c *Cluster) follow(ctx context.Context, namespace, pod, container, prefix string, previous bool, out chan<- LogBatch) error {
	tail := int64(logTail)
	stream, err := c.client.CoreV1().Pods(namespace).GetLogs(pod, &v1.PodLogOptions{
		Container: container, Follow: !previous, Previous: previous, TailLines: &tail,
	}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	read := make(chan string, 256)
	go func() {
		defer close(read)
		reader := bufio.NewReader(stream)
		for {
			line, err := reader.ReadString('\n')
			if line != "" {
				select {
				case read <- prefix + strings.TrimRight(line, "\r\n"):
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return // the container ended, or ctx did
			}
		}
	}()
	var batch []string
	var due <-chan time.Time
	flush := func() bool {
		due = nil
		if len(batch) == 0 {
			return true
		}
		select {
		case out <- LogBatch{Lines: batch}:
			batch = nil
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case line, open := <-read:
			if !open {
				flush()
				return nil
			}
			batch = append(batch, line)
			if due == nil {
				due = time.After(gather)
			}
		case <-due:
			if !flush() {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}
