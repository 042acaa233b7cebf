package kubectl

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"clusterctl/test/fixture"
)

// asKubectl makes the test program kubectl.
const asKubectl = "CLUSTERCTL_TEST_KUBECTL"

func TestMain(m *testing.M) {
	if os.Getenv(asKubectl) != "" {
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			util.CheckErr(err) // exits
		}
		return
	}
	os.Exit(m.Run())
}

// user is somebody with kubectl, in a namespace of his own.
type user struct {
	kubeconfig string
	namespace  string
	home       string // cache of discovery, and scratch
	client     kubernetes.Interface
}

// step is one call of kubectl.
type step struct {
	args  string   // separated by spaces; @ is the user's scratch directory
	more  []string // arguments with spaces
	input string
	env   []string
	code  int
	want  []string // each somewhere in output or errors
	never []string
}

// newControlPlane starts a control plane and returns its first user.
func newControlPlane(t *testing.T) *user {
	t.Helper()
	admin := fixture.StartControlPlane(t, filepath.Join("..", ".."))
	u := &user{home: t.TempDir(), namespace: "default", client: kubernetes.NewForConfigOrDie(admin)}
	fixture.PlayNode(t, u.client)
	u.kubeconfig = filepath.Join(u.home, "kubeconfig")
	if err := clientcmd.WriteToFile(fixture.Kubeconfig(admin, "default"), u.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return u
}

// in is the user in a new namespace.
func (u *user) in(t *testing.T, namespace string) *user {
	t.Helper()
	_, err := u.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fixture.Eventually(t, "what controllers put into "+namespace, func(ctx context.Context) error {
		_, account := u.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		_, root := u.client.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return errors.Join(account, root)
	})
	there := *u
	there.namespace = namespace
	return &there
}

// command is kubectl with these arguments, ready to be run.
func (u *user) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, os.Args[0], args...)
	command.Env = append(os.Environ(), asKubectl+"=1", "KUBECONFIG="+u.kubeconfig, "HOME="+u.home, "NO_COLOR=1")
	return command
}

// try runs kubectl in the user's namespace.
func (u *user) try(t *testing.T, s step) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fixture.Patience)
	defer cancel()
	args := append(strings.Fields(strings.ReplaceAll(s.args, "@", u.home)), s.more...)
	if !strings.HasPrefix(s.args, "config ") && !strings.HasPrefix(s.args, "__complete ") {
		args = append(args, "--namespace="+u.namespace)
		// What comes after -- is not kubectl's.
		for i, a := range args {
			if a == "--" {
				args = append(append(append([]string{}, args[:i]...), "--namespace="+u.namespace), args[i:len(args)-1]...)
				break
			}
		}
	}
	command := u.command(ctx, args...)
	command.Env = append(command.Env, s.env...)
	var both bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(s.input), &both, &both
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("kubectl %s: %v", s.args, err)
	}
	return both.String(), command.ProcessState.ExitCode()
}

// do runs steps one after another and checks each.
func (u *user) do(t *testing.T, steps ...step) {
	t.Helper()
	for _, s := range steps {
		output, code := u.try(t, s)
		if code != s.code {
			t.Errorf("kubectl %s %q ended with %d, want %d:\n%s", s.args, s.more, code, s.code, output)
			continue
		}
		for _, want := range s.want {
			if !strings.Contains(output, want) {
				t.Errorf("kubectl %s %q lacks %q:\n%s", s.args, s.more, want, output)
			}
		}
		for _, never := range s.never {
			if strings.Contains(output, never) {
				t.Errorf("kubectl %s %q should not say %q:\n%s", s.args, s.more, never, output)
			}
		}
	}
}

// file writes a file into the user's scratch directory, and returns its path.
func (u *user) file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(u.home, name)
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKubectl(t *testing.T) {
	u := newControlPlane(t)
	for name, test := range map[string]func(*testing.T, *user){
		"everything": testEverything,
		"create":     testCreate,
		"get":        testGet,
		"apply":      testApply,
		"change":     testChange,
		"workloads":  testWorkloads,
		"nodes":      testNodes,
		"access":     testAccess,
		"server":     testServer,
		"proxy":      testProxy,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, u.in(t, "kubectl-"+name))
		})
	}
}

// waitFor gives a background command its time.
func waitFor(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(fixture.Patience); !check(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
