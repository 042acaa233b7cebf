package storage

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/metrics"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
)

// A rotation of keys waits for every server to read its file again.
func init() { controller.EncryptionConfigFileChangePollDuration = time.Second }

// plain stores objects as they are, and refuses those that are encrypted.
type plain struct{}

func (plain) TransformerForResource(schema.GroupResource) value.Transformer {
	return identity.NewEncryptCheckTransformer()
}

// encryption is how each resource is encrypted by the EncryptionConfiguration
// in file, which is read again whenever it changes, until ctx ends. /metrics
// tells which file is in use, by its hash. Without a file nothing is encrypted.
func encryption(ctx context.Context, file string) (value.ResourceTransformers, error) {
	if file == "" {
		return plain{}, nil
	}
	loading, closeLoaded := context.WithCancel(ctx)
	loaded, err := encryptionconfig.LoadEncryptionConfig(loading, file, true, "")
	if err != nil {
		closeLoaded()
		return nil, fmt.Errorf("load encryption keys: %w", err)
	}
	metrics.RecordEncryptionConfigLastConfigInfo("", loaded.EncryptionFileContentHash)
	transformers := encryptionconfig.NewDynamicTransformers(
		loaded.Transformers, loaded.HealthChecks[0], closeLoaded, loaded.KMSCloseGracePeriod)
	reload := controller.NewDynamicEncryptionConfiguration("encryption", file, transformers, loaded.EncryptionFileContentHash, "")
	go reload.Run(ctx)
	return transformers, nil
}
