package api_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/admissionregistration"
	"clusterctl/controlplane/api/apps"
	"clusterctl/controlplane/api/autoscaling"
	"clusterctl/controlplane/api/batch"
	"clusterctl/controlplane/api/certificates"
	"clusterctl/controlplane/api/coordination"
	"clusterctl/controlplane/api/core"
	"clusterctl/controlplane/api/discovery"
	"clusterctl/controlplane/api/events"
	"clusterctl/controlplane/api/flowcontrol"
	"clusterctl/controlplane/api/networking"
	"clusterctl/controlplane/api/node"
	"clusterctl/controlplane/api/policy"
	"clusterctl/controlplane/api/rbac"
	"clusterctl/controlplane/api/resource"
	"clusterctl/controlplane/api/scheduling"
	kindsofstorage "clusterctl/controlplane/api/storage"
)

// strategies is what a kind's store decides with.
type strategies interface {
	GetCreateStrategy() rest.RESTCreateStrategy
	GetUpdateStrategy() rest.RESTUpdateStrategy
}

// subject is a kind with its strategies, and a valid object of it.
type subject struct {
	gvk      schema.GroupVersionKind
	resource string
	main     strategies
	table    rest.TableConvertor
	sample   []byte // JSON
}

// subjects are all kinds that keep objects.
func subjects(t testing.TB) (runtime.Decoder, []subject) {
	t.Helper()
	kinds := slices.Concat(core.Kinds(), admissionregistration.Kinds(), apps.Kinds(), autoscaling.Kinds(), batch.Kinds(),
		certificates.Kinds(), coordination.Kinds(), discovery.Kinds(), events.Kinds(), flowcontrol.Kinds(), networking.Kinds(),
		node.Kinds(), policy.Kinds(), rbac.Kinds(), resource.Kinds(), scheduling.Kinds(), kindsofstorage.Kinds())
	scheme, err := api.NewScheme(kinds)
	if err != nil {
		t.Fatal(err)
	}
	stores := map[string]rest.Storage{}
	env := &api.Environment{
		Scheme: scheme, ParameterCodec: runtime.NewParameterCodec(scheme), ServiceCIDR: "10.96.0.0/16", NodePortRange: "30000-32767",
		RESTOptions: generic.RESTOptions{
			StorageConfig: &storagebackend.ConfigForResource{},
			Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
				storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
				return nowhere{}, func() {}, nil
			},
			ResourcePrefix: "nowhere",
		},
		RuleResolver: noRules{},
		Background:   func(string, func(context.Context)) {},
		Lookup:       func(name string) rest.Storage { return stores[name] },
	}
	var all []subject
	for _, kind := range kinds {
		gvr := kind.GroupVersionResource()
		served, err := kind.Storages(env)
		if err != nil {
			t.Fatalf("build %s: %v", kind.Name(), err)
		}
		for path, s := range served {
			stores[gvr.Group+"/"+path] = s
		}
		main, ok := served[gvr.Resource].(strategies)
		if !ok || main.GetCreateStrategy() == nil || gvr.GroupVersion() == autoscalingv1.SchemeGroupVersion {
			continue // horizontal pod autoscalers are kept, and judged, as v2
		}
		name := strings.TrimSuffix(gvr.Resource+"."+gvr.Version+"."+gvr.Group, ".")
		text, err := os.ReadFile(filepath.Join("..", "..", "test", "integration", "testdata", "kinds", name+".yaml"))
		if err != nil {
			t.Fatalf("%s has no sample: %v", kind.Name(), err)
		}
		var sample struct{ Object map[string]any }
		if err := yaml.Unmarshal(bytes.ReplaceAll(text, []byte("request: CSR"), []byte("request: AAAA")), &sample); err != nil {
			t.Fatal(err)
		}
		object, err := yaml.Marshal(sample.Object)
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := yaml.YAMLToJSON(object)
		if err != nil {
			t.Fatal(err)
		}
		table, _ := served[gvr.Resource].(rest.TableConvertor)
		all = append(all, subject{kind.Name(), gvr.Resource, main, table, asJSON})
	}
	if len(all) < 40 {
		t.Fatalf("only %d kinds keep objects", len(all))
	}
	return serializer.NewCodecFactory(scheme).UniversalDeserializer(), all
}

// noRules is asked for none: strategies do not authorize.
type noRules struct{ authorizer.RuleResolver }

// nowhere keeps nothing: strategies do not read.
type nowhere struct{ storage.Interface }

// survive takes data all the way to the store, as a new object and as a change
// of the sample. It fails by a panic only.
func (s *subject) survive(decoder runtime.Decoder, data []byte) {
	ctx := request.WithUser(request.WithNamespace(context.Background(), "default"), &user.DefaultInfo{Name: "fuzz"})
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, Verb: "create", APIGroup: s.gvk.Group, APIVersion: s.gvk.Version, Resource: s.resource, Namespace: "default"})
	object := s.decode(decoder, data)
	if object == nil {
		return
	}
	if rest.BeforeCreate(s.main.GetCreateStrategy(), ctx, object) == nil {
		s.print(ctx, object)
	}
	changed, old := s.decode(decoder, data), s.decode(decoder, s.sample)
	if accessor, err := meta.Accessor(old); err == nil && s.main.GetCreateStrategy().NamespaceScoped() {
		accessor.SetNamespace("default")
	}
	_ = rest.BeforeUpdate(s.main.GetUpdateStrategy(), ctx, changed, old)
	s.print(ctx, changed)
}

func (s *subject) decode(decoder runtime.Decoder, data []byte) runtime.Object {
	object, gvk, err := decoder.Decode(data, &s.gvk, nil)
	if err != nil || *gvk != s.gvk {
		return nil
	}
	return object
}

func (s *subject) print(ctx context.Context, object runtime.Object) {
	if s.table != nil {
		_, _ = s.table.ConvertToTable(ctx, object, nil)
	}
}

// oddities are made of a valid object: what the field has sent to API servers.
func oddities(valid []byte) [][]byte {
	list := [][]byte{
		valid,
		valid[:len(valid)/2], valid[:len(valid)-1], nil, []byte("null"), []byte("[]"), []byte(`""`), []byte("{}"), []byte("{\xff}"), []byte("\x00"), []byte("k8s\x00"), []byte("k8s\x00\x0a\xff\xff\xff\xff\x0f"),
		bytes.ReplaceAll(valid, []byte(`"sample"`), []byte("\"\xff\xfe\"")),
		[]byte(strings.Repeat("[", 20_000)), []byte(`{"spec":` + strings.Repeat(`{"a":`, 20_000)), []byte("a: " + strings.Repeat("[", 20_000)),
		[]byte(`{"metadata":{"name":"a","name":"b"},"metadata":{"name":"c"},"spec":{},"spec":null}`),
		[]byte("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\nd: [*c,*c,*c]"),
		labels(1000),
	}
	odd := []string{"null", "{}", "[]", `""`, "-1", "1e999", "99999999999999999999", "0.5", "true", `"` + strings.Repeat("x", 5000) + `"`, `"\u0000"`, `"-1e30Ki"`}
	place := 0
	for i := range valid {
		if valid[i] != ':' || valid[i-1] != '"' {
			continue
		}
		// Each place has some of the odd values, null always among them.
		end := i + 1 + valueLength(valid[i+1:])
		for _, value := range []string{"null", odd[1+place%11], odd[1+(place+5)%11]} {
			list = append(list, slices.Concat(valid[:i+1], []byte(value), valid[end:]))
		}
		place++
	}
	return list
}

func labels(n int) []byte {
	text := bytes.NewBufferString(`{"metadata":{"name":"x","labels":{"a":""`)
	for i := range n {
		fmt.Fprintf(text, `,"l%d":""`, i)
	}
	text.WriteString(`}}}`)
	return text.Bytes()
}

// valueLength is how much of data, which begins with a JSON value, that is.
func valueLength(data []byte) int {
	depth, quoted := 0, false
	for i, c := range data {
		switch {
		case quoted:
			if c == '"' && data[i-1] != '\\' {
				quoted = false
			}
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth == 0 {
				return i
			}
			depth--
		case c == ',' && depth == 0:
			return i
		}
	}
	return len(data)
}

// quiet drops what the libraries log of odd values.
func quiet(t testing.TB) {
	klog.SetLogger(logr.Discard())
	t.Cleanup(klog.ClearLogger)
}

// TestOddInputs sends what FuzzKinds starts from to every kind.
func TestOddInputs(t *testing.T) {
	quiet(t)
	decoder, all := subjects(t)
	t.Run("100,000 labels", func(t *testing.T) { all[0].survive(decoder, labels(100_000)) })
	for _, s := range all {
		t.Run(s.gvk.GroupKind().String()+"."+s.gvk.Version, func(t *testing.T) {
			t.Parallel()
			if s.decode(decoder, s.sample) == nil {
				t.Fatalf("the sample does not decode")
			}
			for _, data := range oddities(s.sample) {
				func() {
					defer func() {
						if p := recover(); p != nil {
							t.Errorf("%.300q: panic: %v", data, p)
						}
					}()
					s.survive(decoder, data)
				}()
			}
		})
	}
}

// FuzzKinds looks for inputs that some kind's decoding, defaults, validation
// or table does not survive.
func FuzzKinds(f *testing.F) {
	quiet(f)
	decoder, all := subjects(f)
	random := rand.New(rand.NewPCG(1, 2))
	for i, s := range all {
		f.Add(uint8(i), s.sample)
		odd := oddities(s.sample)
		for range 3 {
			if data := odd[random.IntN(len(odd))]; len(data) < 10_000 {
				f.Add(uint8(i), data)
			}
		}
	}
	f.Fuzz(func(_ *testing.T, kind uint8, data []byte) {
		all[int(kind)%len(all)].survive(decoder, data)
	})
}
