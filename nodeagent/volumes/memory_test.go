package volumes

import (
	"os"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// amounts reads "memory=1Gi".
func amounts(t *testing.T, list ...string) v1.ResourceList {
	t.Helper()
	all := v1.ResourceList{}
	for _, one := range list {
		name, text, _ := strings.Cut(one, "=")
		q, err := resource.ParseQuantity(text)
		if err != nil {
			t.Fatal(err)
		}
		all[v1.ResourceName(name)] = q
	}
	return all
}

func TestMemorySize(t *testing.T) {
	for name, test := range map[string]struct {
		limit       string // the volume's
		pod         string // memory of its only container
		allocatable string
		want        string
	}{
		"nothing known":             {want: "0"},
		"the node's":                {allocatable: "4Gi", want: "4Gi"},
		"the pod's":                 {pod: "1Gi", allocatable: "4Gi", want: "1Gi"},
		"the volume's":              {limit: "64Mi", pod: "1Gi", allocatable: "4Gi", want: "64Mi"},
		"more than the pod's":       {limit: "2Gi", pod: "1Gi", allocatable: "4Gi", want: "1Gi"},
		"more than the node's":      {limit: "8Gi", allocatable: "4Gi", want: "4Gi"},
		"none":                      {limit: "0", allocatable: "4Gi", want: "4Gi"},
		"the volume's, no node's":   {limit: "64Mi", want: "64Mi"},
		"a pod's beyond the node's": {pod: "8Gi", allocatable: "4Gi", want: "4Gi"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}}}}
			if test.pod != "" {
				pod.Spec.Containers[0].Resources.Limits = amounts(t, "memory="+test.pod)
			}
			var limit *resource.Quantity
			if test.limit != "" {
				limit = ptr.To(resource.MustParse(test.limit))
			}
			var allocatable v1.ResourceList
			if test.allocatable != "" {
				allocatable = amounts(t, "memory="+test.allocatable)
			}
			if got := memorySize(pod, limit, allocatable); got != ptr.To(resource.MustParse(test.want)).Value() {
				t.Errorf("%d bytes, not %s", got, test.want)
			}
		})
	}
}

func TestPageSize(t *testing.T) {
	const none = ": hugePages storage requested, but there is no resource request for huge pages"
	for name, test := range map[string]struct {
		medium     v1.StorageMedium
		pod        []string // requests of the pod itself
		containers [][]string
		inits      [][]string
		want, err  string
	}{
		"the only one":              {medium: "HugePages", containers: [][]string{{"cpu=1"}, {"hugepages-2Mi=4Mi"}}, want: "2Mi"},
		"twice the same":            {medium: "HugePages", containers: [][]string{{"hugepages-2Mi=4Mi"}, {"hugepages-2Mi=2Mi"}}, want: "2Mi"},
		"of an init container":      {medium: "HugePages", containers: [][]string{{}}, inits: [][]string{{"hugepages-1Gi=1Gi"}}, want: "1Gi"},
		"of the pod":                {medium: "HugePages", pod: []string{"hugepages-2Mi=4Mi"}, containers: [][]string{{}}, want: "2Mi"},
		"none":                      {medium: "HugePages", containers: [][]string{{"memory=1Gi"}}, err: "medium HugePages" + none},
		"two":                       {medium: "HugePages", containers: [][]string{{"hugepages-2Mi=4Mi", "hugepages-1Gi=1Gi"}}, err: "medium: HugePages can't be used if container requests multiple huge page sizes"},
		"two, of several":           {medium: "HugePages", containers: [][]string{{"hugepages-2Mi=4Mi"}}, inits: [][]string{{"hugepages-1Gi=1Gi"}}, err: "medium: HugePages can't be used if container requests multiple huge page sizes"},
		"one of two":                {medium: "HugePages-1Gi", containers: [][]string{{"hugepages-2Mi=4Mi", "hugepages-1Gi=1Gi"}}, want: "1Gi"},
		"spelled in another manner": {medium: "HugePages-1024Mi", containers: [][]string{{"hugepages-1Gi=1Gi"}}, want: "1Gi"},
		"none of the size":          {medium: "HugePages-1Gi", containers: [][]string{{"hugepages-2Mi=4Mi"}}, err: "medium HugePages-1Gi" + none},
		"no size":                   {medium: "HugePages-huge", containers: [][]string{{"hugepages-2Mi=4Mi"}}, err: "read page size of medium HugePages-huge: " + resource.ErrFormatWrong.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{}
			if test.pod != nil {
				pod.Spec.Resources = &v1.ResourceRequirements{Requests: amounts(t, test.pod...)}
			}
			for _, requests := range test.containers {
				pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Resources: v1.ResourceRequirements{Requests: amounts(t, requests...)}})
			}
			for _, requests := range test.inits {
				pod.Spec.InitContainers = append(pod.Spec.InitContainers, v1.Container{Resources: v1.ResourceRequirements{Requests: amounts(t, requests...)}})
			}
			got, err := pageSize(test.medium, pod)
			switch {
			case test.err != "":
				if err == nil || err.Error() != test.err {
					t.Errorf("error %v", err)
				}
			case err != nil || got.String() != test.want:
				t.Errorf("got %s, error %v", got.String(), err)
			}
		})
	}
}

func TestSamePages(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	for name, test := range map[string]struct {
		medium  v1.StorageMedium
		options string
		err     string
	}{
		"any":            {"HugePages", "rw,pagesize=1024M", ""},
		"the same":       {"HugePages-2Mi", "rw,pagesize=2M", ""},
		"the same, huge": {"HugePages-1Gi", "rw,pagesize=1024M,min_size=0", ""},
		"another":        {"HugePages-1Gi", "rw,pagesize=2M", "pod u: mounted dir /d pagesize '2Mi' and requested medium size '1Gi' differ"},
		"unknown":        {"HugePages-1Gi", "rw", "pod u: mounted dir /d pagesize is not determined"},
	} {
		err := samePages(pod, "/d", test.medium, test.options)
		if (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Mounting takes no pages: those come when something is written.
func TestVolumesOnHugePages(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	if _, err := os.Stat("/sys/kernel/mm/hugepages/hugepages-2048kB"); err != nil {
		t.Skip("needs a kernel with huge pages of 2 MiB")
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}, Spec: v1.PodSpec{
		SecurityContext: &v1.PodSecurityContext{FSGroup: ptr.To[int64](1234)},
		Containers:      []v1.Container{uses("any", "sized")},
		Volumes: []v1.Volume{
			{Name: "any", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumHugePages}}},
			{Name: "sized", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}}},
		},
	}}
	pod.Spec.Containers[0].Resources.Requests = amounts(t, "hugepages-2Mi=4Mi")
	dir := t.TempDir()
	for range 2 { // an agent that was restarted finds them mounted
		mounted, err := New(Config{PodsDir: dir}).Prepare(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		for name, source := range mounted.Sources {
			mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(source.Path))
			if err != nil || len(mounts) != 1 || mounts[0].FSType != "hugetlbfs" || !strings.Contains(mounts[0].VFSOptions, "pagesize=2M") {
				t.Errorf("%s: mounts %+v, error %v", name, mounts, err)
			}
			if info, err := os.Stat(source.Path); err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o775 {
				t.Errorf("%s: %v, error %v", name, info.Mode(), err)
			}
		}
	}
	if err := New(Config{PodsDir: dir}).Teardown(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, error %v", left, err)
	}
}
