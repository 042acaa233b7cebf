package pods

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/images"
	"clusterctl/nodeagent/metrics"
	"clusterctl/nodeagent/volumes"
)

// startFault is a failure to start, with its reason in the status.
type startFault struct {
	reason string
	err    error
}

func (f *startFault) Error() string { return f.err.Error() }
func (f *startFault) Unwrap() error { return f.err }

// start pulls the image, makes the container, starts it and runs its
// postStart hook.
func (w *worker) start(ctx context.Context, s *Situation, action Action, mounted *volumes.Mounted) (outcome, error) {
	a, pod := w.agent, withAddresses(s)
	c, target := find(pod, action.Container)
	if c == nil {
		return nil, fmt.Errorf("the pod has no container %q", action.Container)
	}
	report := func(kind, reason, message string) {
		if reason == images.Pulling {
			w.mu.Lock()
			w.pulled = true
			w.mu.Unlock()
		}
		a.event(pod, c.Name, kind, reason, message)
	}
	fault := func(reason string, err error) error {
		a.Metrics.ContainerStarted(kindOf(pod, c.Name), reason)
		if ctx.Err() == nil {
			report(v1.EventTypeWarning, "Failed", "Error: "+err.Error())
		}
		return &startFault{reason, err}
	}
	sandbox := s.Actual.Sandbox()
	sandboxConfig, err := a.sandboxConfig(ctx, pod, sandbox.Attempt)
	if err != nil {
		return nil, fault(reasonConfig, err)
	}
	image, err := a.images.Ensure(ctx, pod, c, sandboxConfig, w.pullSecrets(ctx, pod), report)
	if err != nil {
		return nil, err
	}
	attempt := action.Attempt
	if s.Actual.Latest(c.Name) == nil {
		attempt = firstAttempt(filepath.Join(a.logDirectory(pod), c.Name))
	}
	config, err := a.containerConfig(ctx, pod, c, attempt, image, s.podIPs(), mounted)
	if err != nil {
		return nil, fault(reasonConfig, err)
	}
	if target != "" {
		if run := s.Actual.Latest(target); run != nil {
			options := config.Linux.SecurityContext.NamespaceOptions
			options.Pid, options.TargetId = criv1.NamespaceMode_TARGET, run.ID
		}
	}
	if a.Guard != nil {
		if err := a.Guard(ctx, pod); err != nil {
			return nil, fault(reasonCreate, err)
		}
	}
	done := a.starts.take(ctx)
	id, err := a.Config.Runtime.CreateContainer(ctx, sandbox.ID, config, sandboxConfig)
	if err != nil {
		done()
		return nil, fault(reasonCreate, err)
	}
	w.started(c.Name, resourcesOf(pod))
	report(v1.EventTypeNormal, "Created", "Container created")
	err = steadily(ctx, func(ctx context.Context) error { return a.Config.Runtime.StartContainer(ctx, id) })
	done()
	if err != nil {
		return nil, fault(reasonRun, err)
	}
	a.Metrics.ContainerStarted(kindOf(pod, c.Name), "")
	report(v1.EventTypeNormal, "Started", "Container started")
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		if err := a.hook(ctx, pod, c, c.Lifecycle.PostStart, id, s.podIPs()); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			report(v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			grace := int64(30)
			if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
				grace = *g
			}
			report(v1.EventTypeNormal, "Killing", "FailedPostStartHook")
			if stop := a.Config.Runtime.StopContainer(ctx, id, max(grace, 2)); stop != nil {
				w.logger.Warn("cannot stop a container whose postStart hook failed", "container", c.Name, "error", stop)
			}
			return nil, &startFault{reasonPostHook, err}
		}
	}
	return w.look(ctx, sandbox.ID, id), nil
}

// pullSecrets are the pod's imagePullSecrets, as far as they are there.
func (w *worker) pullSecrets(ctx context.Context, pod *v1.Pod) []v1.Secret {
	var secrets []v1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := w.agent.Objects.Secret(ctx, pod.UID, pod.Namespace, ref.Name)
		if err != nil {
			w.agent.event(pod, "", v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		secrets = append(secrets, *secret)
	}
	return secrets
}

// kindOf is what the named container of the pod counts as.
func kindOf(pod *v1.Pod, name string) string {
	switch {
	case isInit(pod, name):
		return metrics.InitContainer
	case slices.ContainsFunc(pod.Spec.EphemeralContainers, func(e v1.EphemeralContainer) bool { return e.Name == name }):
		return metrics.EphemeralContainer
	}
	return metrics.Container
}
