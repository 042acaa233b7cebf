package encryption

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// Key encrypts with XSalsa20 and Poly1305, whose nonces are long enough to be
// drawn at random for as many writes as a cluster ever makes. Numbers grow and
// never come back: a Secret in etcd names the one it was encrypted with.
type Key struct {
	Number int
	Secret [32]byte
}

// Keys are what one API server reads Secrets with, plain text always among it.
// It writes with the first key, or in plain text.
type Keys struct {
	List       []Key
	WritePlain bool
}

// New makes the keys of a cluster. Where API servers run already, which cannot
// read encrypted Secrets yet, they write plain text until the first rotation.
func New(servers bool) Keys { return Keys{List: []Key{newKey(1)}, WritePlain: servers} }

func newKey(number int) Key {
	key := Key{Number: number}
	// It never fails, as its documentation says.
	_, _ = rand.Read(key.Secret[:])
	return key
}

const namePrefix = "key"

// Marshal is the EncryptionConfiguration of an API server. It is a secret.
func (k Keys) Marshal() ([]byte, error) {
	box := &apiserverv1.SecretboxConfiguration{}
	for _, key := range k.List {
		box.Keys = append(box.Keys, apiserverv1.Key{
			Name: namePrefix + strconv.Itoa(key.Number), Secret: base64.StdEncoding.EncodeToString(key.Secret[:]),
		})
	}
	providers := []apiserverv1.ProviderConfiguration{{Secretbox: box}, {Identity: &apiserverv1.IdentityConfiguration{}}}
	if k.WritePlain {
		slices.Reverse(providers)
	}
	raw, err := yaml.Marshal(&apiserverv1.EncryptionConfiguration{
		TypeMeta:  metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "EncryptionConfiguration"},
		Resources: []apiserverv1.ResourceConfiguration{{Resources: []string{"secrets"}, Providers: providers}},
	})
	if err != nil {
		return nil, fmt.Errorf("render encryption keys: %w", err)
	}
	return raw, nil
}

var errForeign = errors.New("the encryption configuration is not one that clusterctl wrote")

// Parse reads what Marshal wrote, and refuses anything else. Its errors hold no
// secret.
func Parse(raw []byte) (Keys, error) {
	var config apiserverv1.EncryptionConfiguration
	if yaml.UnmarshalStrict(raw, &config) != nil || len(config.Resources) != 1 ||
		!slices.Equal(config.Resources[0].Resources, []string{"secrets"}) || len(config.Resources[0].Providers) != 2 {
		return Keys{}, errForeign
	}
	first, second := config.Resources[0].Providers[0], config.Resources[0].Providers[1]
	keys := Keys{WritePlain: first.Identity != nil}
	if keys.WritePlain {
		first, second = second, first
	}
	if first.Secretbox == nil || second.Identity == nil || len(first.Secretbox.Keys) == 0 {
		return Keys{}, errForeign
	}
	for _, have := range first.Secretbox.Keys {
		number, ok := strings.CutPrefix(have.Name, namePrefix)
		n, err := strconv.Atoi(number)
		secret, err2 := base64.StdEncoding.DecodeString(have.Secret)
		if !ok || err != nil || err2 != nil || len(secret) != 32 || keys.has(n) {
			return Keys{}, errForeign
		}
		keys.List = append(keys.List, Key{Number: n, Secret: [32]byte(secret)})
	}
	return keys, nil
}

func (k Keys) has(number int) bool {
	return slices.ContainsFunc(k.List, func(key Key) bool { return key.Number == number })
}

// Join is what a server needs that joins others, which may stand at different
// moments of a rotation: it reads all that they write, and writes what all of
// them read. That is what the furthest of them writes, whose file is there only
// because every server had come to the moment before.
func Join(others []Keys) (Keys, error) {
	all, err := union(others)
	if err != nil || len(all) == 0 {
		return Keys{}, err
	}
	if slices.ContainsFunc(others, func(k Keys) bool { return k.writes(all[0]) }) {
		return Keys{List: all}, nil
	}
	return learning(all, others), nil
}

// learning reads every key and still writes as others do, who do not write with
// the newest of all.
func learning(all []Key, others []Keys) Keys {
	return Keys{
		List:       append(slices.Clone(all[1:]), all[0]),
		WritePlain: slices.ContainsFunc(others, func(k Keys) bool { return k.WritePlain }),
	}
}

func (k Keys) writes(key Key) bool { return !k.WritePlain && k.List[0] == key }

// union is every key once, the newest first.
func union(all []Keys) ([]Key, error) {
	var found []Key
	for _, keys := range all {
		for _, key := range keys.List {
			i := slices.IndexFunc(found, func(k Key) bool { return k.Number == key.Number })
			if i < 0 {
				found = append(found, key)
			} else if found[i] != key {
				return nil, fmt.Errorf("the control planes have different keys of the number %d", key.Number)
			}
		}
	}
	slices.SortFunc(found, func(a, b Key) int { return cmp.Compare(b.Number, a.Number) })
	return found, nil
}
