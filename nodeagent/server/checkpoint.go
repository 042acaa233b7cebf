package server

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/runtime"
)

// checkpoint has the runtime write what a container is doing into an archive on
// this host, and says where.
func (s *Server) checkpoint(w http.ResponseWriter, r *http.Request) {
	pod, actual, ok := s.find(w, r)
	if !ok {
		return
	}
	name := r.PathValue("container")
	if !hasContainer(pod, name) {
		http.Error(w, fmt.Sprintf("container %v does not exist", name), http.StatusNotFound)
		return
	}
	var timeout int64
	if given := r.URL.Query()["timeout"]; len(given) > 0 {
		var err error
		if timeout, err = strconv.ParseInt(given[len(given)-1], 10, 64); err != nil {
			http.Error(w, "cannot parse value of timeout parameter", http.StatusNotFound)
			return
		}
	}
	location := filepath.Join(s.CheckpointDir, fmt.Sprintf("checkpoint-%s_%s-%s-%s.tar", pod.Name, pod.Namespace, name, time.Now().Format(time.RFC3339)))
	err := os.MkdirAll(s.CheckpointDir, 0o700)
	if run := actual.Latest(name); err == nil && run != nil {
		err = s.Runtime.CheckpointContainer(r.Context(), &criv1.CheckpointContainerRequest{ContainerId: run.ID, Location: location, Timeout: timeout})
	} else if err == nil {
		err = fmt.Errorf("container %v not found", name)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("checkpointing of %v/%v/%v failed (%v)", pod.Namespace, pod.Name, name, err), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string][]string{"items": {location}})
}

func hasContainer(pod *v1.Pod, name string) bool {
	is := func(c v1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(pod.Spec.Containers, is) || slices.ContainsFunc(pod.Spec.InitContainers, is) ||
		slices.ContainsFunc(pod.Spec.EphemeralContainers, func(e v1.EphemeralContainer) bool { return e.Name == name })
}

// runningPods are the pods that the runtime runs, whatever the API has of them.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	containers, err := s.Runtime.ListContainers(r.Context(), &criv1.ContainerFilter{State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []v1.Pod{}}
	at := map[string]int{} // of a pod in the list, by UID
	for _, c := range containers {
		uid := c.Labels[runtime.LabelPodUID]
		i, known := at[uid]
		if !known {
			i = len(list.Items)
			at[uid] = i
			list.Items = append(list.Items, v1.Pod{ObjectMeta: metav1.ObjectMeta{
				UID: types.UID(uid), Name: c.Labels[runtime.LabelPodName], Namespace: c.Labels[runtime.LabelPodNamespace]}})
		}
		spec := &list.Items[i].Spec
		spec.Containers = append(spec.Containers, v1.Container{Name: c.Labels[runtime.LabelContainerName], Image: c.Image.GetUserSpecifiedImage()})
	}
	writeJSON(w, list)
}
