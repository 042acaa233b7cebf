package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/metrics"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
	"clusterctl/controlplane/scheduler/queue"
	"clusterctl/hostconfig"
)

// bindings is how many pods may be on their way to the API server at once.
const bindings = 64

// bindTimeout bounds one binding with all that comes before it.
const bindTimeout = 30 * time.Second

// Config is what a scheduler runs with.
type Config struct {
	Client kubernetes.Interface
	Logger *slog.Logger
	// Profiles are beside the default profile, or change it.
	Profiles []hostconfig.SchedulerProfile
}

// scheduler is one run, from winning the election to losing it.
type scheduler struct {
	client   kubernetes.Interface
	logger   *slog.Logger
	profiles map[string]*framework.Profile
	metrics  map[string]*metrics.Profile
	queue    *queue.Queue
	recorder events.EventRecorder
	random   *rand.Rand // breaks ties; the loop's own

	mu      sync.Mutex // guards what follows
	picture *picture.Picture
	kinds   map[string]*kind                      // by signature
	slow    map[types.UID]context.CancelCauseFunc // of pods that are being prepared for their binding
	uses    uint64                                // of kinds: tells which was used last

	// What one cycle works with, kept for the next.
	feasible       []int32              // indexes of nodes
	refused        []*framework.Refusal // by node
	refusers       uint64               // bits: indexes of filters
	nodes          []*picture.Node
	totals, scores []int64 // of the feasible nodes

	slots chan struct{} // one for each binding under way
	done  sync.WaitGroup
}

// Run schedules pods until ctx ends, and returns once the bindings under way
// have ended too. Only one scheduler may run at a time: see package leader.
func Run(ctx context.Context, config Config) error {
	profiles, err := plugins.Profiles(config.Profiles, config.Client)
	if err != nil {
		return err
	}
	for _, p := range profiles {
		if err := p.Check(); err != nil {
			return fmt.Errorf("check profiles: %w", err)
		}
	}
	s := newScheduler(profiles...)
	s.client, s.logger = config.Client, config.Logger

	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: config.Client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("start recording events: %w", err)
	}
	defer broadcaster.Shutdown()
	s.recorder = &thrifty{recorder: broadcaster.NewRecorder(scheme.Scheme, v1.DefaultSchedulerName)}

	metrics.Pending(s.queue.Counts)
	if err := s.watch(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	nodes := len(s.picture.Nodes())
	s.mu.Unlock()
	s.logger.Info("scheduler started", "profiles", len(s.profiles), "nodes", nodes, "waiting", s.queue.Len())
	for {
		item, err := s.queue.Pop(ctx)
		if err != nil {
			s.done.Wait()
			return nil
		}
		s.schedule(ctx, item)
	}
}

func newScheduler(profiles ...*framework.Profile) *scheduler {
	s := &scheduler{
		profiles: map[string]*framework.Profile{}, metrics: map[string]*metrics.Profile{}, queue: queue.New(profiles[0].QueueSort.Less, clock.RealClock{}),
		picture: picture.New(), kinds: map[string]*kind{}, slow: map[types.UID]context.CancelCauseFunc{}, slots: make(chan struct{}, bindings),
		random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
	for _, p := range profiles {
		s.profiles[p.Name], s.metrics[p.Name] = p, metrics.For(p.Name)
	}
	return s
}

// schedule tries one pod.
func (s *scheduler) schedule(ctx context.Context, item *queue.Item) {
	if s.queue.Gone(item) {
		s.queue.Done(item)
		return
	}
	start := time.Now()
	profile := s.profiles[item.Pod.Spec.SchedulerName]
	s.mu.Lock()
	pod := picture.NewPod(item.Pod)
	kept := s.picture.NominatedTo(pod.Object.UID)
	node, refusals, remedy := s.decide(profile, pod)
	if node == nil {
		nominated := s.nominate(pod, remedy)
		for _, victim := range remedy.Victims {
			s.picture.SetEvicted(victim.UID, true)
		}
		s.mu.Unlock()
		if kept != "" && nominated != kept {
			s.queue.Notify(framework.Event{Kind: framework.PodRemoved}) // its room is free
		}
		s.metrics[profile.Name].Attempt(metrics.Unschedulable, start)
		s.refuse(ctx, item, refusals, remedy, nominated)
		return
	}
	metrics.Algorithm(time.Since(start))
	assumed := *item.Pod // shallow: what it points to is never changed
	assumed.Spec.NodeName = node.Name()
	s.picture.Unnominate(pod.Object.UID)
	if err := s.reserve(profile, pod, node); err != nil {
		s.unreserve(profile, &assumed)
		s.mu.Unlock()
		s.failed(ctx, item, &assumed, start, fmt.Errorf("reserve: %w", err))
		return
	}
	s.picture.Assume(pod, &assumed)
	slow := slices.ContainsFunc(profile.PreBinds, func(p framework.PreBindPlugin) bool { return p.Needed(&assumed) })
	preparing, cancel := ctx, context.CancelCauseFunc(nil)
	if slow {
		preparing, cancel = context.WithCancelCause(ctx)
		s.slow[assumed.UID] = cancel
	}
	s.mu.Unlock()
	if kept != "" && kept != node.Name() {
		s.queue.Notify(framework.Event{Kind: framework.PodRemoved}) // its room is free
	}

	if slow {
		// It may wait for others for long: it takes a slot only to be bound.
		s.done.Go(func() {
			defer cancel(nil)
			s.announce(preparing, &assumed)
			err := s.preBind(preparing, profile, &assumed)
			if !s.prepared(assumed.UID) {
				err = context.Cause(preparing)
			}
			if err != nil {
				s.giveUp(ctx, profile, item, &assumed, start, err)
			} else if !s.detach(ctx, func() { s.bind(ctx, profile, item, &assumed, start) }) {
				s.giveUp(ctx, profile, item, &assumed, start, ctx.Err())
			}
		})
		return
	}
	if !s.detach(ctx, func() { s.bind(ctx, profile, item, &assumed, start) }) {
		s.giveUp(ctx, profile, item, &assumed, start, ctx.Err())
	}
}

// reserve takes what the pod needs on its node. The picture is locked.
func (s *scheduler) reserve(profile *framework.Profile, pod *picture.Pod, node *picture.Node) (err error) {
	defer s.timed(profile, metrics.Reserve, time.Now(), &err)
	for _, p := range profile.Reserves {
		if err := p.Reserve(pod, s.picture, node); err != nil {
			return fmt.Errorf("%s: %w", p.Name(), err)
		}
	}
	return nil
}

// unreserve gives it back. The picture is locked.
func (s *scheduler) unreserve(profile *framework.Profile, pod *v1.Pod) {
	for _, p := range slices.Backward(profile.Reserves) {
		p.Unreserve(pod, s.picture, pod.Spec.NodeName)
	}
}

// preBind does what has to be done before a pod is bound.
func (s *scheduler) preBind(ctx context.Context, profile *framework.Profile, pod *v1.Pod) (err error) {
	defer s.timed(profile, metrics.PreBind, time.Now(), &err)
	for _, p := range profile.PreBinds {
		if err := p.PreBind(ctx, pod, pod.Spec.NodeName); err != nil {
			return fmt.Errorf("prepare binding with %s: %w", p.Name(), err)
		}
	}
	return nil
}

// announce tells in the status of a pod where it will go, for a pod that will not
// be there at once: whoever adds and removes nodes should know. It is no more than
// a hint, and the binding clears it.
func (s *scheduler) announce(ctx context.Context, pod *v1.Pod) {
	if pod.Status.NominatedNodeName == pod.Spec.NodeName {
		return
	}
	if err := s.writeNomination(ctx, pod, pod.Spec.NodeName); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.logger.Warn("nomination not written", "pod", pod.Namespace+"/"+pod.Name, "error", err)
	}
}

// prepared says that nobody can withdraw the pod any more; false: somebody has.
func (s *scheduler) prepared(pod types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ours := s.slow[pod]
	delete(s.slow, pod)
	return ours
}

// withdraw is framework.Hands.Withdraw.
func (s *scheduler) withdraw(pod types.UID, why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	cancel := s.slow[pod]
	if cancel == nil {
		return false
	}
	delete(s.slow, pod)
	cancel(why)
	return true
}

// detach runs f off the critical path, once there is a slot for it; false: ctx
// ended before.
func (s *scheduler) detach(ctx context.Context, f func()) bool {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	s.done.Go(func() {
		defer func() { <-s.slots }()
		f()
	})
	return true
}

// nominate keeps room where the remedy makes some, and returns the node that
// the pod's status is to name.
func (s *scheduler) nominate(pod *picture.Pod, remedy framework.Remedy) string {
	uid := pod.Object.UID
	switch {
	case remedy.Keep:
		return s.picture.NominatedTo(uid)
	case remedy.Node == "":
		s.picture.Unnominate(uid)
		return ""
	}
	for _, other := range remedy.Cleared {
		s.picture.Unnominate(other.UID)
	}
	s.picture.Nominate(pod, remedy.Node)
	return remedy.Node
}

// bind carries out what schedule decided; on failure the pod waits again.
func (s *scheduler) bind(ctx context.Context, profile *framework.Profile, item *queue.Item, pod *v1.Pod, start time.Time) {
	binding, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	node := pod.Spec.NodeName
	err := s.runBind(binding, profile, pod, node)
	if err == nil {
		s.metrics[profile.Name].Attempt(metrics.Scheduled, start)
		metrics.Bound(item.Attempts, item.Since)
		s.queue.Done(item)
		s.recorder.Eventf(item.Pod, nil, v1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		begun := time.Now()
		for _, p := range profile.PostBinds {
			p.PostBind(pod, node)
		}
		s.metrics[profile.Name].Point(metrics.PostBind, metrics.Scheduled, begun)
		return
	}
	s.giveUp(ctx, profile, item, pod, start, err)
}

// giveUp frees what a pod took that was not bound after all.
func (s *scheduler) giveUp(ctx context.Context, profile *framework.Profile, item *queue.Item, pod *v1.Pod, start time.Time, err error) {
	s.mu.Lock()
	s.unreserve(profile, pod)
	// Unless the informer has meanwhile confirmed it.
	s.picture.RemoveAssumed(pod)
	s.mu.Unlock()
	s.queue.Left(pod.UID)
	s.queue.Notify(framework.Event{Kind: framework.PodRemoved, Pod: pod})
	s.failed(ctx, item, pod, start, err)
}

// failed has a pod tried again that was to go to a node and did not get there.
func (s *scheduler) failed(ctx context.Context, item *queue.Item, pod *v1.Pod, start time.Time, err error) {
	s.metrics[pod.Spec.SchedulerName].Attempt(metrics.Failed, start)
	log := s.logger.With("pod", pod.Namespace+"/"+pod.Name, "node", pod.Spec.NodeName, "error", err)
	switch {
	case errors.Is(err, context.Canceled):
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		// Gone, bound by somebody else, or decided on old data: the informer
		// will tell.
		log.Info("binding refused")
	default:
		log.Warn("binding failed, will try again")
		refused := *item.Pod
		refused.Status.NominatedNodeName = pod.Spec.NodeName // perhaps: it may have been announced
		s.done.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, bindTimeout)
			defer cancel()
			s.note(&refused, err.Error())
			err := s.setNotScheduled(ctx, &refused, v1.PodReasonSchedulerError, err.Error(), "")
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				log.Warn("pod's condition not updated", "cause", err)
			}
		})
	}
	s.queue.Park(item, nil, nil)
}

func (s *scheduler) permit(ctx context.Context, profile *framework.Profile, pod *v1.Pod, node string) (err error) {
	defer s.timed(profile, metrics.Permit, time.Now(), &err)
	for _, p := range profile.Permits {
		if err := p.Permit(ctx, pod, node); err != nil {
			return fmt.Errorf("permit by %s: %w", p.Name(), err)
		}
	}
	return nil
}

func (s *scheduler) runBind(ctx context.Context, profile *framework.Profile, pod *v1.Pod, node string) (err error) {
	if err := s.permit(ctx, profile, pod, node); err != nil {
		return err
	}
	defer s.timed(profile, metrics.Bind, time.Now(), &err)
	return profile.Bind.Bind(ctx, pod, node)
}

// timed notes an extension point that began at start; err is how it ended.
func (s *scheduler) timed(profile *framework.Profile, point metrics.Point, start time.Time, err *error) {
	result := metrics.Scheduled
	if *err != nil {
		result = metrics.Failed
	}
	s.metrics[profile.Name].Point(point, result, start)
}

// eventNote is the most that an event's text may hold.
const eventNote = 1024

func (s *scheduler) note(pod *v1.Pod, message string) {
	if len(message) > eventNote {
		message = message[:eventNote]
	}
	s.recorder.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", message)
}
