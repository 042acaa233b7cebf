package kubectl

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// testCreate makes objects without manifests.
func testCreate(t *testing.T, u *user) {
	u.file(t, "literal.env", "C=d\n")
	u.do(t,
		step{args: "create configmap c --from-literal=a=b --from-env-file=@/literal.env", code: 1, want: []string{"cannot be combined"}},
		step{args: "create configmap c --from-env-file=@/literal.env", want: []string{"configmap/c created"}},
		step{args: "create configmap c --from-literal=a=b", code: 1, want: []string{`configmaps "c" already exists`}},
		step{args: "get configmap c -o jsonpath={.data}", want: []string{`{"C":"d"}`}},
		step{args: "create secret generic s --from-literal=a=b", want: []string{"secret/s created"}},
		step{args: "create secret docker-registry r --docker-server=r.example.com --docker-username=u --docker-password=p", want: []string{"secret/r created"}},
		step{args: "get secret r -o jsonpath={.type}", want: []string{"kubernetes.io/dockerconfigjson"}},
		step{args: "create serviceaccount sa", want: []string{"serviceaccount/sa created"}},
		step{args: "create token sa --duration=10m", want: []string{"eyJ"}},
		step{args: "create role r --verb=get,list --resource=pods", want: []string{"role.rbac.authorization.k8s.io/r created"}},
		step{args: "create rolebinding rb --role=r --serviceaccount=" + u.namespace + ":sa", want: []string{"rolebinding.rbac.authorization.k8s.io/rb created"}},
		step{args: "create clusterrole kubectl-create --verb=get --resource=nodes", want: []string{"created"}},
		step{args: "create clusterrolebinding kubectl-create --clusterrole=kubectl-create --user=nobody", want: []string{"created"}},
		step{args: "create deployment d --image=sample:1 --replicas=2 --port=80", want: []string{"deployment.apps/d created"}},
		step{args: "create job j --image=sample:1", want: []string{"job.batch/j created"}},
		step{args: "create cronjob cj --image=sample:1 --schedule=0", code: 1, want: []string{"spec.schedule"}},
		step{args: "create cronjob cj --image=sample:1", more: []string{"--schedule=0 0 1 1 *"}, want: []string{"cronjob.batch/cj created"}},
		step{args: "create job from --from=cronjob/cj", want: []string{"job.batch/from created"}},
		step{args: "create service clusterip sc --tcp=80:8080", want: []string{"service/sc created"}},
		step{args: "create service nodeport sn --tcp=80:8080", want: []string{"service/sn created"}},
		step{args: "create service loadbalancer sl --tcp=80:8080", want: []string{"service/sl created"}},
		step{args: "create service externalname se --external-name=example.com", want: []string{"service/se created"}},
		step{args: "create ingress i --rule=a.example.com/*=sc:80", want: []string{"ingress.networking.k8s.io/i created"}},
		step{args: "create poddisruptionbudget p --selector=app=d --min-available=1", want: []string{"poddisruptionbudget.policy/p created"}},
		step{args: "create quota q --hard=pods=20", want: []string{"resourcequota/q created"}},
		step{args: "wait quota q --for=jsonpath={.status.hard.pods}=20 --timeout=120s", want: []string{"condition met"}}, // before that, it lets nothing in
		step{args: "create priorityclass kubectl-create --value=7 --description=x", want: []string{"priorityclass.scheduling.k8s.io/kubectl-create created"}},
		step{args: "create namespace kubectl-made", want: []string{"namespace/kubectl-made created"}},
		step{args: "create -f - --edit", input: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"edited"}}`, env: []string{"EDITOR=sed -i s/edited/edited-too/"}, want: []string{"configmap/edited-too created"}},
		step{args: "create -f - --validate=strict", input: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dada":{}}`, code: 1, want: []string{`strict decoding error: unknown field "dada"`}},
		step{args: "create -f - --validate=warn", input: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dada":{}}`, want: []string{`Warning: unknown field "dada"`, "configmap/x created"}},
		step{args: "create --raw=/api/v1/namespaces/" + u.namespace + "/configmaps -f -", input: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"raw"}}`, want: []string{`"uid"`}},
		step{args: "run web --image=sample:1 --labels=run=web --port=80", want: []string{"pod/web created"}},
		step{args: "expose pod web --port=80 --name=web", want: []string{"service/web exposed"}},
		step{args: "expose deployment d --port=80 --type=NodePort", want: []string{"service/d exposed"}},
		step{args: "delete pod,service web", want: []string{`pod "web" deleted`, `service "web" deleted`}},
		step{args: "delete configmap --all", want: []string{`configmap "raw" deleted`}},
		step{args: "delete deployment d --cascade=orphan", want: []string{"deleted"}},
		step{args: "get replicaset -l app=d -o name", want: []string{"replicaset.apps/d-"}},
		step{args: "delete --now pod nothing", code: 1, want: []string{`Error from server (NotFound): pods "nothing" not found`}},
		step{args: "delete namespace kubectl-made --timeout=120s", want: []string{`namespace "kubectl-made" deleted`}},
		step{args: "delete clusterrole,clusterrolebinding,priorityclass kubectl-create", want: []string{"deleted"}},
	)
}

// testGet shows objects in every form.
func testGet(t *testing.T, u *user) {
	u.file(t, "columns", "NAME DATA\n.metadata.name .data.a\n")
	u.file(t, "template", "{{.metadata.name}} has {{.data.a}}\n")
	u.do(t,
		step{args: "create configmap one --from-literal=a=b"},
		step{args: "create configmap two --from-literal=a=c"},
		step{args: "label configmap one group=first"},
		step{args: "get configmaps", want: []string{"NAME", "DATA", "AGE", "one", "two"}},
		step{args: "get cm --no-headers", want: []string{"one"}, never: []string{"NAME"}},
		step{args: "get cm one two -o name", want: []string{"configmap/one\nconfigmap/two"}},
		step{args: "get cm one -o json", want: []string{`"a": "b"`}},
		step{args: "get cm one -o yaml", want: []string{"a: b"}, never: []string{"managedFields"}},
		step{args: "get cm one -o kyaml", want: []string{`a: "b"`}},
		step{args: "get cm one -o jsonpath={.data.a}", want: []string{"b"}},
		step{args: "get cm one -o jsonpath-as-json={.data}", want: []string{`"a": "b"`}},
		step{args: "get cm one -o go-template={{.data.a}}", want: []string{"b"}},
		step{args: "get cm one -o go-template-file=@/template", want: []string{"one has b"}},
		step{args: "get cm -o custom-columns=N:.metadata.name,A:.data.a --sort-by=.data.a", want: []string{"N", "one", "two                c"}},
		step{args: "get cm -o custom-columns-file=@/columns", want: []string{"two"}},
		step{args: "get cm --show-labels --show-kind", want: []string{"LABELS", "configmap/one", "group=first"}},
		step{args: "get cm -L group", want: []string{"GROUP", "first"}},
		step{args: "get cm -l group=first", want: []string{"one"}, never: []string{"two"}},
		step{args: "get cm --field-selector=metadata.name=two", want: []string{"two"}, never: []string{"one"}},
		step{args: "get cm -A --chunk-size=1", want: []string{"NAMESPACE", u.namespace, "kube-system"}},
		step{args: "get cm,secrets,sa", want: []string{"configmap/one", "serviceaccount/default"}},
		step{args: "get cm nothing", code: 1, want: []string{`Error from server (NotFound): configmaps "nothing" not found`}},
		step{args: "get nothings", code: 1, want: []string{`the server doesn't have a resource type "nothings"`}},
		step{args: "get pods", want: []string{"No resources found in " + u.namespace + " namespace."}},
		step{args: "get --raw=/version", want: []string{`"gitVersion": "v1.36`}},
		step{args: "get cm one --subresource=status", code: 1, want: []string{"the server could not find the requested resource"}},
		step{args: "describe cm one", want: []string{"Name:         one", "Data", "Events:"}},
		step{args: "events", want: []string{"No events found in " + u.namespace + " namespace."}},
	)
}

const appliedManifest = `
{apiVersion: v1, kind: ConfigMap, metadata: {name: one, labels: {set: mine}}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: two, labels: {set: mine}}, data: {a: b}}
`

// testApply applies on either side, with conflicts, pruning and differences.
func testApply(t *testing.T, u *user) {
	u.file(t, "applied.yaml", appliedManifest)
	changed := `{apiVersion: v1, kind: ConfigMap, metadata: {name: one, labels: {set: mine}}, data: {a: c}}`
	u.do(t,
		step{args: "apply -f @/applied.yaml", want: []string{"configmap/one created", "configmap/two created"}},
		step{args: "apply view-last-applied configmap one", want: []string{"a: b"}},
		step{args: "diff -f @/applied.yaml"},
		step{args: "diff -f -", input: changed, code: 1, want: []string{"-  a: b", "+  a: c"}},
		step{args: "diff --server-side --force-conflicts -f -", input: changed, code: 1, want: []string{"+  a: c"}},
		step{args: "apply -f - --dry-run=server", input: changed, want: []string{"configmap/one configured (server dry run)"}},
		step{args: "apply -f - --prune -l set=mine --prune-allowlist=core/v1/ConfigMap", input: changed, want: []string{"configmap/one configured", "configmap/two pruned"}},
		step{args: "apply edit-last-applied configmap one", env: []string{"EDITOR=sed -i s/mine/edited/"}, want: []string{"configmap/one edited"}},
		step{args: "apply --server-side --field-manager=other -f -", input: strings.Replace(changed, "a: c", "a: d", 1), code: 1,
			want: []string{"Apply failed with 1 conflict", `conflict with "kubectl-client-side-apply"`, ".data.a"}},
		step{args: "apply --server-side --field-manager=other --force-conflicts -f -", input: strings.Replace(changed, "a: c", "a: d", 1), want: []string{"configmap/one serverside-applied"}},
		step{args: "get configmap one -o jsonpath={.data.a}", want: []string{"d"}},
		step{args: "apply set-last-applied -f - --create-annotation", input: changed, want: []string{"configmap/one configured"}},
		step{args: "kustomize testdata/kustom", want: []string{"name: my-web", "by: kustomize"}},
		step{args: "apply -k testdata/kustom", want: []string{"service/my-web created", "configmap/my-made created"}},
		step{args: "get -k testdata/kustom", want: []string{"my-web"}},
		step{args: "delete -k testdata/kustom", want: []string{`service "my-web" deleted`}},
	)
}

// testChange changes objects that there are.
func testChange(t *testing.T, u *user) {
	u.do(t,
		step{args: "create configmap c --from-literal=a=b"},
		step{args: "create deployment d --image=sample:1"},
		step{args: "create serviceaccount sa"},
		step{args: "edit configmap c", env: []string{"EDITOR=sed -i s/a:.b/a:\\ edited/"}, want: []string{"configmap/c edited"}},
		step{args: "get configmap c -o jsonpath={.data.a}", want: []string{"edited"}},
		step{args: "edit configmap c", env: []string{"EDITOR=true"}, want: []string{"Edit cancelled, no changes made"}},
		step{args: `patch configmap c -p {"data":{"m":"1"}}`, want: []string{"configmap/c patched"}},
		step{args: `patch configmap c --type=merge -p {"data":{"m":null}}`, want: []string{"configmap/c patched"}},
		step{args: `patch configmap c --type=json -p [{"op":"add","path":"/data/j","value":"2"}]`, want: []string{"configmap/c patched"}},
		step{args: `patch configmap c --type=json -p [{"op":"test","path":"/data/j","value":"3"}]`, code: 1, want: []string{"The request is invalid"}},
		step{args: `patch deployment d --subresource=scale --type=merge -p {"spec":{"replicas":2}}`, want: []string{"patched"}},
		step{args: "get deployment d -o jsonpath={.spec.replicas}", want: []string{"2"}},
		step{args: "label configmap c x=1", want: []string{"configmap/c labeled"}},
		step{args: "label configmap c x=2", code: 1, want: []string{"'x' already has a value (1), and --overwrite is false"}},
		step{args: "label configmap c x=2 --overwrite", want: []string{"configmap/c labeled"}},
		step{args: "label configmap c x-", want: []string{"configmap/c unlabeled"}},
		step{args: "label configmap c --list", never: []string{"x="}},
		step{args: "label configmap c x=a/b/c", code: 1, want: []string{"invalid label value"}},
		step{args: "annotate configmap c note=hello", want: []string{"configmap/c annotated"}},
		step{args: "annotate configmap c note-", want: []string{"configmap/c annotated"}},
		step{args: "replace -f -", input: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"r":"1"}}`, want: []string{"configmap/c replaced"}},
		step{args: "replace -f -", input: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","resourceVersion":"1"}}`, code: 1, want: []string{"(Conflict)", "the object has been modified"}},
		step{args: "replace --force -f -", input: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`, want: []string{`configmap "c" deleted`, "configmap/c replaced"}},
		step{args: "set image deployment/d sample=sample:2", want: []string{"deployment.apps/d image updated"}},
		step{args: "set env deployment/d A=b", want: []string{"deployment.apps/d env updated"}},
		step{args: "set env deployment/d --list", want: []string{"A=b"}},
		step{args: "set resources deployment d --limits=cpu=1,memory=64Mi", want: []string{"deployment.apps/d resource requirements updated"}},
		step{args: "set serviceaccount deployment d sa", want: []string{"deployment.apps/d serviceaccount updated"}},
		step{args: "set selector -f - --local app=x -o yaml", input: `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`, want: []string{"app: x"}},
		step{args: "create rolebinding rb --clusterrole=view --user=ada"},
		step{args: "set subject rolebinding rb --user=eve", want: []string{"rolebinding.rbac.authorization.k8s.io/rb subjects updated"}},
		step{args: "get deployment d -o yaml", want: []string{"image: sample:2", "value: b", "memory: 64Mi", "serviceAccountName: sa"}},
	)
}

// testWorkloads scales and rolls out.
func testWorkloads(t *testing.T, u *user) {
	u.do(t,
		step{args: "create deployment d --image=sample:1 --replicas=2"},
		step{args: "rollout status deployment/d --timeout=120s", want: []string{`deployment "d" successfully rolled out`}},
		step{args: "annotate deployment d kubernetes.io/change-cause=first"},
		step{args: "scale deployment d --replicas=3 --current-replicas=2", want: []string{"deployment.apps/d scaled"}},
		step{args: "scale deployment d --replicas=3 --current-replicas=2", code: 1, want: []string{"Expected replicas to be 2, was 3"}},
		step{args: "wait deployment d --for=jsonpath={.status.availableReplicas}=3 --timeout=120s", want: []string{"condition met"}},
		step{args: "rollout pause deployment d", want: []string{"deployment.apps/d paused"}},
		step{args: "set image deployment/d *=sample:2", want: []string{"image updated"}},
		step{args: "rollout resume deployment d", want: []string{"deployment.apps/d resumed"}},
		step{args: "rollout status deployment/d --timeout=120s", want: []string{"successfully rolled out"}},
		step{args: "rollout history deployment d", want: []string{"REVISION", "1         first", "2 "}},
		step{args: "rollout history deployment d --revision=1", want: []string{"Image:	sample:1"}},
		step{args: "rollout undo deployment d --dry-run=server", want: []string{"rolled back (server dry run)"}},
		step{args: "rollout undo deployment d", want: []string{"deployment.apps/d rolled back"}},
		step{args: "rollout status deployment/d --timeout=120s"},
		step{args: "get deployment d -o jsonpath={.spec.template.spec.containers[0].image}", want: []string{"sample:1"}},
		step{args: "rollout restart deployment d", want: []string{"deployment.apps/d restarted"}},
		step{args: "rollout status deployment/d --timeout=120s"},
		step{args: "autoscale deployment d --max=5 --min=2 --cpu=80%", want: []string{"horizontalpodautoscaler.autoscaling/d autoscaled"}},
		step{args: "get hpa d", want: []string{"Deployment/d", "80%"}},
		step{args: "describe deployment d", want: []string{"RollingUpdate", "NewReplicaSet:", "ScalingReplicaSet"}},
		step{args: "events --for deployment/d", want: []string{"ScalingReplicaSet"}},
		step{args: "get events --sort-by=.lastTimestamp", want: []string{"deployment/d"}},
		step{args: "delete deployment d --cascade=foreground --timeout=120s", want: []string{"deleted"}},
		step{args: "wait --for=delete pod -l app=d --timeout=120s"},
	)
}

// testNodes works on nodes; nothing else uses the one that it makes.
func testNodes(t *testing.T, u *user) {
	u.do(t,
		step{args: "create -f -", input: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"kubectl"}}`, want: []string{"node/kubectl created"}},
		step{args: "taint node kubectl a=b:NoSchedule", want: []string{"node/kubectl tainted"}},
		step{args: "taint node kubectl a=b:NoSchedule", code: 1, want: []string{"already has a taint"}},
		step{args: "taint node kubectl a-", want: []string{"node/kubectl untainted"}},
		step{args: "cordon kubectl", want: []string{"node/kubectl cordoned"}},
		step{args: "get node kubectl", want: []string{"SchedulingDisabled"}},
		step{args: "uncordon kubectl", want: []string{"node/kubectl uncordoned"}},
		step{args: "drain kubectl --ignore-daemonsets --timeout=60s", want: []string{"node/kubectl cordoned", "node/kubectl drained"}},
		step{args: "describe node play", want: []string{"Capacity:", "Allocated resources:"}},
		step{args: "top nodes", code: 1, want: []string{"metrics not available yet"}},
		step{args: "top pods", want: []string{"No resources found"}},
		step{args: "delete node kubectl", want: []string{`node "kubectl" deleted`}},
	)
}

// testAccess asks for rights and certificates.
func testAccess(t *testing.T, u *user) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ada"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	csr := func(name string) string {
		return `{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"` + name + `"},"spec":{"request":"` + request +
			`","signerName":"kubernetes.io/kube-apiserver-client","usages":["client auth"]}}`
	}
	u.do(t,
		step{args: "auth whoami", want: []string{"Username", "admin", "system:masters"}},
		step{args: "auth whoami --as=eve --as-group=friends", want: []string{"eve", "friends"}},
		step{args: "auth can-i create pods", want: []string{"yes"}},
		step{args: "auth can-i create pods --as=eve", code: 1, want: []string{"no"}},
		step{args: "auth can-i --list --as=eve", want: []string{"selfsubjectaccessreviews.authorization.k8s.io", "/healthz"}},
		step{args: "auth can-i get pods --subresource=log", want: []string{"yes"}},
		step{args: "get pods --as=eve", code: 1, want: []string{`Error from server (Forbidden): pods is forbidden: User "eve" cannot list resource "pods" in API group "" in the namespace "` + u.namespace + `"`}},
		step{args: "auth reconcile -f -", input: `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"r","namespace":"` + u.namespace + `"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["list"]}]}`, want: []string{"role.rbac.authorization.k8s.io/r reconciled"}},
		step{args: "create rolebinding rb --role=r --user=eve"},
	)
	waitFor(t, "the server to know of the binding", func() bool {
		output, _ := u.try(t, step{args: "auth can-i list pods --as=eve"})
		return strings.Contains(output, "yes")
	})
	u.do(t,
		step{args: "create -f -", input: csr("kubectl-good"), want: []string{"kubectl-good created"}},
		step{args: "create -f -", input: csr("kubectl-bad")},
		step{args: "describe csr kubectl-good", want: []string{"Common Name:    ada", "Pending"}},
		step{args: "certificate approve kubectl-good", want: []string{"kubectl-good approved"}},
		step{args: "wait csr kubectl-good --for=jsonpath={.status.certificate} --timeout=120s", want: []string{"condition met"}},
		step{args: "get csr kubectl-good", want: []string{"Approved,Issued"}},
		step{args: "certificate deny kubectl-bad", want: []string{"kubectl-bad denied"}},
		step{args: "get csr kubectl-bad", want: []string{"Denied"}},
		step{args: "delete csr kubectl-good kubectl-bad", want: []string{"deleted"}},
	)
}

// testServer asks the server about itself, and the configuration about it.
func testServer(t *testing.T, u *user) {
	u.do(t,
		// The test program has no version of its own to compare the server's with.
		step{args: "version", code: 1, want: []string{"Server Version: v1.36.3", "client version error"}},
		step{args: "version -o json", code: 1, want: []string{`"emulationMinor": "36"`}},
		step{args: "cluster-info", want: []string{"Kubernetes control plane", "is running at"}},
		step{args: "cluster-info dump --namespaces=" + u.namespace + " --output-directory=@/dump", want: []string{"Cluster info dumped to"}},
		step{args: "api-versions", want: []string{"apps/v1", "resource.k8s.io/v1", "v1"}},
		step{args: "api-resources", want: []string{"SHORTNAMES", "deployments"}},
		step{args: "api-resources --verbs=list --namespaced=false -o name", want: []string{"nodes", "clusterroles.rbac.authorization.k8s.io"}, never: []string{"pods"}},
		step{args: "api-resources --api-group=batch -o wide", want: []string{"VERBS", "CronJob"}},
		step{args: "explain pod.spec.containers", want: []string{"KIND:       Pod", "FIELD: containers <[]Container>"}},
		step{args: "explain deployments --recursive", want: []string{"GROUP:      apps", "template"}},
		step{args: "explain hpa --api-version=autoscaling/v1", want: []string{"VERSION:    v1"}},
		step{args: "explain pods --output=plaintext-openapiv2", want: []string{"Pod is a collection of containers"}},
		step{args: "explain nothings", code: 1, want: []string{"doesn't have a resource type"}},
		step{args: "config view", want: []string{"current-context: test", "DATA+OMITTED"}},
		step{args: "config get-contexts", want: []string{"test"}},
		step{args: "config current-context", want: []string{"test"}},
		step{args: "config set-context other --cluster=test --user=test --kubeconfig=@/other", want: []string{`Context "other" created.`}},
		step{args: "config use-context other --kubeconfig=@/other", want: []string{"Switched"}},
		step{args: "config delete-context other --kubeconfig=@/other", want: []string{"deleted context other"}},
		step{args: "completion bash", want: []string{"complete"}},
		step{args: "__complete get configm", want: []string{"configmaps"}},
		step{args: "options", want: []string{"--kubeconfig"}},
		step{args: "plugin list", code: 1, want: []string{"unable to find any kubectl plugins"}},
		step{args: "logs nothing", code: 1, want: []string{`pods "nothing" not found`}},
		step{args: "exec nothing -- true", code: 1, want: []string{`pods "nothing" not found`}},
		step{args: "attach nothing", code: 1, want: []string{`pods "nothing" not found`}},
		step{args: "port-forward pod/nothing 80", code: 1, want: []string{`pods "nothing" not found`}},
		step{args: "debug nothing --image=sample:1", code: 1, want: []string{`pods "nothing" not found`}},
	)
}

// line collects what a command says.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// testProxy asks through kubectl proxy, and watches as it goes.
func testProxy(t *testing.T, u *user) {
	start := func(args ...string) *lines {
		ctx, cancel := context.WithCancel(context.Background())
		said := &lines{}
		command := u.command(ctx, args...)
		command.Stdout, command.Stderr = said, said
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cancel()
			_ = command.Wait() // it was killed
		})
		return said
	}
	proxy := start("proxy", "--port=0", "--reject-paths=^/api/v1/secrets")
	address := regexp.MustCompile(`Starting to serve on (\S+)`)
	waitFor(t, "the proxy's address", func() bool { return address.MatchString(proxy.String()) })
	base := "http://" + address.FindStringSubmatch(proxy.String())[1]
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/api/v1/namespaces/" + u.namespace: {http.StatusOK, u.namespace},
		"/apis/apps/v1":                     {http.StatusOK, "deployments"},
		"/readyz":                           {http.StatusOK, "ok"},
		"/api/v1/secrets":                   {http.StatusForbidden, ""},
		"/api/v1/namespaces/nothing":        {http.StatusNotFound, "not found"},
	} {
		answer, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close() // it is read
		if err != nil || answer.StatusCode != want.code || !strings.Contains(string(body), want.text) {
			t.Errorf("%s: %d, %v: %s", path, answer.StatusCode, err, body)
		}
	}
	watch := start("get", "configmaps", "--watch-only", "--output-watch-events", "--namespace="+u.namespace)
	waitFor(t, "the watch to see what is made", func() bool {
		u.try(t, step{args: "create configmap seen"})
		u.try(t, step{args: "delete configmap seen"})
		return strings.Contains(watch.String(), "ADDED") && strings.Contains(watch.String(), "DELETED")
	})
	if _, err := os.Stat(u.home + "/.kube/cache"); err != nil {
		t.Errorf("no cache of discovery: %v", err)
	}
}
