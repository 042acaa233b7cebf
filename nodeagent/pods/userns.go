package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// idsPerPod is how many users and groups a pod with a user namespace of its
// own has. The first block of that size is the host's own.
const idsPerPod = 65536

// lastBlock leaves the IDs alone that the kernel keeps for "nobody knows".
const lastBlock = 1<<32/idsPerPod - 2

// userRanges gives every pod with a user namespace IDs of the host that no
// other pod has. What was given is in each pod's directory, so that it is
// still known after a restart. Safe for concurrent use.
type userRanges struct {
	file func(types.UID) string
	pods func() []types.UID // that have a directory

	mu     sync.Mutex
	blocks map[types.UID]uint32
	taken  map[uint32]bool
}

type userRange struct {
	First uint32 `json:"first"` // of idsPerPod users and groups of the host
}

func newUserRanges(podDir func(types.UID) string, pods func() []types.UID) *userRanges {
	return &userRanges{pods: pods, file: func(uid types.UID) string { return filepath.Join(podDir(uid), "userns.json") }}
}

// of is the first ID of the host that the pod has; it is given one if it has
// none.
func (u *userRanges) of(uid types.UID) (uint32, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.blocks == nil {
		if err := u.load(); err != nil {
			return 0, err
		}
	}
	if block, ok := u.blocks[uid]; ok {
		return block * idsPerPod, nil
	}
	block := uint32(1)
	for u.taken[block] {
		block++
	}
	if block > lastBlock {
		return 0, errors.New("give the pod users of its own: all are taken")
	}
	raw, err := json.Marshal(userRange{block * idsPerPod})
	if err != nil {
		return 0, fmt.Errorf("encode the pod's users: %w", err)
	}
	if err := os.WriteFile(u.file(uid), raw, 0o600); err != nil {
		return 0, fmt.Errorf("note the pod's users: %w", err)
	}
	u.blocks[uid], u.taken[block] = block, true
	return block * idsPerPod, nil
}

// load reads what was given before. u.mu is held.
func (u *userRanges) load() error {
	u.blocks, u.taken = map[types.UID]uint32{}, map[uint32]bool{}
	for _, uid := range u.pods() {
		raw, err := os.ReadFile(u.file(uid))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var r userRange
		if err == nil {
			err = json.Unmarshal(raw, &r)
		}
		if err == nil && (r.First%idsPerPod != 0 || r.First == 0) {
			err = fmt.Errorf("%d is no first user", r.First)
		}
		if err != nil {
			u.blocks = nil
			return fmt.Errorf("read the users of pod %s: %w", uid, err)
		}
		u.blocks[uid], u.taken[r.First/idsPerPod] = r.First/idsPerPod, true
	}
	return nil
}

// release takes the pod's IDs back.
func (u *userRanges) release(uid types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if block, ok := u.blocks[uid]; ok {
		delete(u.blocks, uid)
		delete(u.taken, block)
	}
}

// userNamespace is what the runtime has to know of the pod's users; nil where
// they are the host's.
func (a *Agent) userNamespace(ctx context.Context, pod *v1.Pod) (*criv1.UserNamespace, error) {
	if pod.Spec.HostUsers == nil || *pod.Spec.HostUsers {
		return nil, nil
	}
	handler, err := a.runtimeHandler(ctx, pod)
	if err != nil {
		return nil, err
	}
	if node := a.Config.Node(); node != nil && !supports(node, handler, userNamespaces) {
		return nil, errors.New("the handler of the pod's runtime class does not support user namespaces")
	}
	first, err := a.users.of(pod.UID)
	if err != nil {
		return nil, err
	}
	ids := func() []*criv1.IDMapping {
		return []*criv1.IDMapping{{HostId: first, ContainerId: 0, Length: idsPerPod}}
	}
	return &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: ids(), Gids: ids()}, nil
}

// runtimeHandler is the handler of the pod's runtime class; empty for the default.
func (a *Agent) runtimeHandler(ctx context.Context, pod *v1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	class, err := a.Client.NodeV1().RuntimeClasses().Get(ctx, *name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("failed to lookup RuntimeClass %s: %w", *name, err)
	}
	return class.Handler, nil
}

// mapUsers has the files that are mounted into the pod belong to its own
// users.
func mapUsers(mounts []*criv1.Mount, users *criv1.UserNamespace) {
	if users == nil {
		return
	}
	for _, m := range mounts {
		if m.Image == nil {
			m.UidMappings, m.GidMappings = users.Uids, users.Gids
		}
	}
}
