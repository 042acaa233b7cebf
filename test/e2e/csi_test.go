package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// csiPrograms are Kubernetes' host-path driver and what goes with it in pods, as
// they are published: https://github.com/kubernetes-csi.
var (
	csiDriver   = "hostpathplugin"
	csiSidecars = []string{"csi-node-driver-registrar", "csi-provisioner", "csi-attacher", "csi-resizer"}
)

const (
	csiName = "hostpath.csi.k8s.io"
	csiDir  = "/var/lib/kubelet/plugins/csi-hostpath"
)

// csiFiles start the driver: on the host, whose mount and losetup it calls. It takes
// two volumes.
var csiFiles = map[string]string{"/etc/systemd/system/csi-hostpath.service": `[Service]
ExecStartPre=/bin/mkdir -p ` + csiDir + `
ExecStart=/usr/local/bin/hostpathplugin --drivername=` + csiName + ` --endpoint=unix://` + csiDir + `/csi.sock --nodeid=worker1 --maxvolumespernode=2 --check-volume-lifecycle --statedir=/var/lib/csi-hostpath
[Install]
WantedBy=multi-user.target
`}

// TestCSIHostPath has a published storage driver provision, attach, stage, publish
// and expand volumes of a worker, whose agent is killed meanwhile, and wants nothing
// of them left in the end.
func TestCSIHostPath(t *testing.T) {
	dir := os.Getenv("CLUSTERCTL_CSI")
	for _, name := range append([]string{csiDriver}, csiSidecars...) {
		if _, err := os.Stat(filepath.Join(dir, name)); dir == "" || err != nil {
			t.Skipf("CLUSTERCTL_CSI names no directory with the programs %s and %s", csiDriver, strings.Join(csiSidecars, ", "))
		}
	}
	c := newLab(t, "e2e-csi", 1, 1, 0)
	c.up(t)
	c.wantNodesReady(t, 2)
	c.install(t, "worker1", map[string]string{"/usr/local/bin/" + csiDriver: filepath.Join(dir, csiDriver)}, csiFiles)
	c.hosts(t, "systemctl daemon-reload && systemctl enable --now csi-hostpath", "worker1")
	archives := []string{"image", "load", c.inventory, "../../bin/sample.tar"}
	for _, name := range csiSidecars {
		archive := filepath.Join(c.dir, name+".tar")
		if out, err := exec.Command("go", "run", "../../bundle/mkimage", "-name", "csi.test/"+name+":1", "-binary", filepath.Join(dir, name), "-user", "0", "-out", archive).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		archives = append(archives, archive)
	}
	c.run(t, archives...)
	manifest := filepath.Join(c.dir, "csi.yaml")
	if err := os.WriteFile(manifest, []byte(csiManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, "apply", "-f", manifest)
	s := &csiTest{c, t}
	s.wantDriver()

	// A volume is made, attached, mounted, and grows while a pod has it.
	s.claim("data")
	s.pod("one", s.claimed("data"))
	s.wantRunning("one")
	c.hosts(t, "for d in /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/*/mount; do echo kept > $d/file; done", "worker1")
	s.grow("data", "20Mi")
	s.pod("inline", v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: csiName, FSType: ptr.To("ext4")}})
	s.wantRunning("inline")

	// The driver takes two volumes on a node, of which inline ones are none.
	s.claim("second")
	s.claim("third")
	s.pod("two", s.claimed("second"))
	s.wantRunning("two")
	s.pod("three", s.claimed("third"))
	s.wantUnschedulable("three", "exceed max volume count")
	s.delete("two")
	s.wantRunning("three")

	s.delete("three")
	s.killedWhileStaging("data")
	s.delete("one", "inline")
	for _, claim := range []string{"data", "second", "third"} {
		c.run(t, "delete", "pvc", claim)
	}
	s.wantNothingLeft()
}

type csiTest struct {
	*cluster
	t *testing.T
}

func (s *csiTest) wantDriver() {
	s.t.Helper()
	eventually(s.t, 3*time.Minute, "the driver registered", func(ctx context.Context) error {
		node, err := s.client(s.t, "").StorageV1().CSINodes().Get(ctx, "worker1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		at := slices.IndexFunc(node.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == csiName })
		if at < 0 || node.Spec.Drivers[at].Allocatable == nil || *node.Spec.Drivers[at].Allocatable.Count != 2 {
			return fmt.Errorf("CSINode says %+v", node.Spec.Drivers)
		}
		return nil
	})
}

func (s *csiTest) claim(name string) {
	s.t.Helper()
	_, err := s.client(s.t, "").CoreV1().PersistentVolumeClaims("default").Create(s.t.Context(), &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("csi-hostpath"), AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("10Mi")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *csiTest) claimed(name string) v1.VolumeSource {
	return v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

func (s *csiTest) pod(name string, volume v1.VolumeSource) {
	s.t.Helper()
	_, err := s.client(s.t, "").CoreV1().Pods("default").Create(s.t.Context(), &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			Containers:                    []v1.Container{{Name: "c", Image: "clusterctl.dev/sample:1", VolumeMounts: []v1.VolumeMount{{Name: "v", MountPath: "/data"}}}},
			Volumes:                       []v1.Volume{{Name: "v", VolumeSource: volume}},
			TerminationGracePeriodSeconds: ptr.To[int64](1),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *csiTest) wantRunning(name string) {
	s.t.Helper()
	eventually(s.t, 4*time.Minute, "pod "+name+" runs", func(ctx context.Context) error {
		pod, err := s.client(s.t, "").CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != v1.PodRunning {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
}

func (s *csiTest) wantUnschedulable(name, why string) {
	s.t.Helper()
	eventually(s.t, 2*time.Minute, "pod "+name+" has no node", func(ctx context.Context) error {
		pod, err := s.client(s.t, "").CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == v1.PodScheduled && strings.Contains(condition.Message, why) {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", pod.Status.Conditions)
	})
}

func (s *csiTest) grow(claim, size string) {
	s.t.Helper()
	s.run(s.t, "patch", "pvc", claim, "-p", `{"spec":{"resources":{"requests":{"storage":"`+size+`"}}}}`)
	eventually(s.t, 5*time.Minute, "claim "+claim+" has "+size, func(ctx context.Context) error {
		got, err := s.client(s.t, "").CoreV1().PersistentVolumeClaims("default").Get(ctx, claim, metav1.GetOptions{})
		if have := got.Status.Capacity[v1.ResourceStorage]; err == nil && have.String() != size {
			err = fmt.Errorf("its status is %+v", got.Status)
		}
		return err
	})
}

func (s *csiTest) delete(pods ...string) {
	s.t.Helper()
	s.run(s.t, append([]string{"delete", "pod", "--timeout=4m"}, pods...)...)
}

// killedWhileStaging has the agent killed at the moment that the driver stages the
// volume of a pod: first the pod stays, then it is gone when the agent is back.
func (s *csiTest) killedWhileStaging(claim string) {
	s.t.Helper()
	const agent = "clusterctl-nodeagent"
	stage := func() {
		s.t.Helper()
		s.delete("one")
		s.wantAttachments(0)
		s.hosts(s.t, "systemctl kill -s STOP "+agent, "worker1")
		s.pod("one", s.claimed(claim))
		s.wantAttachments(1)
		// The driver stands still from here on.
		s.hosts(s.t, `systemctl kill -s STOP csi-hostpath && systemctl kill -s CONT `+agent+`
			for i in $(seq 600); do ls /var/lib/kubelet/plugins/kubernetes.io/csi/`+csiName+`/*/vol_data.json && break; sleep 0.2; done`, "worker1")
		s.hosts(s.t, "systemctl kill -s KILL "+agent+"; systemctl stop "+agent, "worker1")
	}
	stage()
	s.hosts(s.t, "systemctl kill -s CONT csi-hostpath && systemctl start "+agent, "worker1")
	s.wantRunning("one")
	if out := s.hosts(s.t, "cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/*/mount/file", "worker1"); !strings.Contains(out, "kept") {
		s.t.Errorf("the volume lost what was in it: %s", out)
	}
	stage()
	s.run(s.t, "delete", "pod", "one", "--force", "--grace-period=0")
	s.hosts(s.t, "systemctl kill -s CONT csi-hostpath && systemctl start "+agent, "worker1")
	s.wantAttachments(0)
	s.pod("one", s.claimed(claim))
	s.wantRunning("one")
}

// wantAttachments waits until so many volumes are attached, and no others are left.
func (s *csiTest) wantAttachments(n int) {
	s.t.Helper()
	eventually(s.t, 4*time.Minute, fmt.Sprintf("%d volumes are attached", n), func(ctx context.Context) error {
		list, err := s.client(s.t, "").StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		attached := 0
		for _, a := range list.Items {
			if a.Status.Attached {
				attached++
			}
		}
		if attached != n || len(list.Items) != n {
			return fmt.Errorf("%d of %d are attached", attached, len(list.Items))
		}
		return nil
	})
}

func (s *csiTest) wantNothingLeft() {
	s.t.Helper()
	s.wantAttachments(0)
	eventually(s.t, 3*time.Minute, "nothing is left", func(ctx context.Context) error {
		volumes, err := s.client(s.t, "").CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		node, err := s.client(s.t, "").CoreV1().Nodes().Get(ctx, "worker1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		left := s.hosts(s.t, "grep -E 'kubernetes.io[~/]csi' /proc/self/mountinfo; find /var/lib/kubelet/pods/ /var/lib/kubelet/plugins/ -name vol_data.json -o -name globalmount; ls /var/lib/csi-hostpath | grep -v json; true", "worker1")
		if len(volumes.Items)+len(node.Status.VolumesAttached)+len(node.Status.VolumesInUse) > 0 || strings.TrimSpace(left) != "--- worker1" {
			return fmt.Errorf("%d volumes, attached %v, in use %v; on the host: %s", len(volumes.Items), node.Status.VolumesAttached, node.Status.VolumesInUse, left)
		}
		return nil
	})
}

const csiManifest = `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: hostpath.csi.k8s.io}
spec: {attachRequired: true, podInfoOnMount: true, fsGroupPolicy: File, volumeLifecycleModes: [Persistent, Ephemeral]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: csi-hostpath}
provisioner: hostpath.csi.k8s.io
allowVolumeExpansion: true
---
apiVersion: v1
kind: Namespace
metadata: {name: csi}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: csi, namespace: csi}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: csi}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: csi, namespace: csi}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: csi, namespace: csi}
spec:
  selector: {matchLabels: {app: csi}}
  template:
    metadata: {labels: {app: csi}}
    spec:
      serviceAccountName: csi
      containers:
      - name: registrar
        image: csi.test/csi-node-driver-registrar:1
        args: [--csi-address=/csi/csi.sock, --kubelet-registration-path=/var/lib/kubelet/plugins/csi-hostpath/csi.sock]
        volumeMounts: [{name: socket, mountPath: /csi}, {name: registration, mountPath: /registration}]
      - name: provisioner
        image: csi.test/csi-provisioner:1
        args: [--csi-address=/csi/csi.sock, --feature-gates=Topology=true]
        volumeMounts: [{name: socket, mountPath: /csi}]
      - name: attacher
        image: csi.test/csi-attacher:1
        args: [--csi-address=/csi/csi.sock]
        volumeMounts: [{name: socket, mountPath: /csi}]
      - name: resizer
        image: csi.test/csi-resizer:1
        args: [--csi-address=/csi/csi.sock]
        volumeMounts: [{name: socket, mountPath: /csi}]
      volumes:
      - {name: socket, hostPath: {path: /var/lib/kubelet/plugins/csi-hostpath}}
      - {name: registration, hostPath: {path: /var/lib/kubelet/plugins_registry}}
`
