package apiserver

import (
	"context"
	"fmt"

	apiextensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	apiextensionslisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
)

// customVersions tells the keeper of APIServices which groups and versions
// custom resources are served in.
type customVersions struct {
	crds    apiextensionslisters.CustomResourceDefinitionLister
	synced  cache.InformerSynced
	keeper  autoregister.AutoAPIServiceRegistration
	changed chan struct{}                // holds one: look again
	told    map[schema.GroupVersion]bool // to the keeper
	first   chan struct{}                // closed once all that there were at start are told
}

func newCustomVersions(crds apiextensionsinformers.CustomResourceDefinitionInformer, keeper autoregister.AutoAPIServiceRegistration) (*customVersions, error) {
	c := &customVersions{
		crds:    crds.Lister(),
		keeper:  keeper,
		changed: make(chan struct{}, 1),
		told:    map[schema.GroupVersion]bool{},
		first:   make(chan struct{}),
	}
	look := func() {
		select {
		case c.changed <- struct{}{}:
		default: // what is to come is seen as well
		}
	}
	handler, err := crds.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { look() },
		UpdateFunc: func(any, any) { look() },
		DeleteFunc: func(any) { look() },
	})
	if err != nil {
		return nil, fmt.Errorf("watch custom resource definitions: %w", err)
	}
	c.synced = handler.HasSynced
	return c, nil
}

// run works until ctx ends.
func (c *customVersions) run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), c.synced) {
		return
	}
	c.tell()
	close(c.first)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
			c.tell()
		}
	}
}

// tell tells the keeper what has come and gone since the last time.
func (c *customVersions) tell() {
	// The cache's own lister cannot fail.
	crds, _ := c.crds.List(labels.Everything())
	served := map[schema.GroupVersion]bool{}
	for _, crd := range crds {
		for _, version := range crd.Spec.Versions {
			if version.Served {
				served[schema.GroupVersion{Group: crd.Spec.Group, Version: version.Name}] = true
			}
		}
	}
	for gv := range served {
		if !c.told[gv] {
			c.keeper.AddAPIServiceToSync(localAPIService(gv, customPriority))
		}
	}
	for gv := range c.told {
		if !served[gv] {
			c.keeper.RemoveAPIServiceToSync(localAPIService(gv, customPriority).Name)
		}
	}
	c.told = served
}
