package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/util/keyutil"
)

// ServiceAccountTokens signs and verifies service-account tokens with one
// EC P-256 key pair. It is immutable, and safe for concurrent use.
type ServiceAccountTokens struct {
	issuer  string
	private *ecdsa.PrivateKey
	keyID   string
	public  map[string]*ecdsa.PublicKey // by key ID: the signer's and those of the public key file
}

// LoadServiceAccountTokens reads the signing key and the public keys that are
// accepted besides it: those of earlier signing keys, while they rotate.
func LoadServiceAccountTokens(issuer, keyFile, publicFile string) (*ServiceAccountTokens, error) {
	key, err := keyutil.PrivateKeyFromFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("load service-account signing key: %w", err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || private.Curve.Params().BitSize != 256 {
		return nil, fmt.Errorf("load service-account signing key: %s holds no EC P-256 key", keyFile)
	}
	t := &ServiceAccountTokens{issuer: issuer, private: private, public: map[string]*ecdsa.PublicKey{}}
	if t.keyID, err = t.accept(&private.PublicKey); err != nil {
		return nil, err
	}
	others, err := keyutil.PublicKeysFromFile(publicFile)
	if err != nil {
		return nil, fmt.Errorf("load service-account public keys: %w", err)
	}
	for _, other := range others {
		public, ok := other.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("load service-account public keys: %s holds a key that is not EC", publicFile)
		}
		if _, err := t.accept(public); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *ServiceAccountTokens) accept(key *ecdsa.PublicKey) (id string, err error) {
	der, err := x509.MarshalPKIXPublicKey(crypto.PublicKey(key))
	if err != nil {
		return "", fmt.Errorf("name service-account key: %w", err)
	}
	sum := sha256.Sum256(der)
	id = base64.RawURLEncoding.EncodeToString(sum[:])
	t.public[id] = key
	return id, nil
}

// Issuer is the tokens' iss claim.
func (t *ServiceAccountTokens) Issuer() string { return t.issuer }

// Audiences are those that the API server itself answers to.
func (t *ServiceAccountTokens) Audiences() authenticator.Audiences {
	return authenticator.Audiences{t.issuer}
}

// Issue implements api.TokenIssuer. A token that names no jti gets one.
func (t *ServiceAccountTokens) Issue(_ context.Context, claims ...any) (string, error) {
	merged := jwt.MapClaims{"jti": uuid.NewString()}
	for _, part := range claims {
		raw, err := json.Marshal(part)
		if err != nil {
			return "", fmt.Errorf("marshal token claims: %w", err)
		}
		var values map[string]json.RawMessage
		if err := json.Unmarshal(raw, &values); err != nil {
			return "", fmt.Errorf("read token claims: %w", err)
		}
		for name, value := range values {
			merged[name] = value
		}
	}
	now := time.Now().Unix()
	maps.Copy(merged, jwt.MapClaims{"iss": t.issuer, "iat": now, "nbf": now})
	token := jwt.NewWithClaims(jwt.SigningMethodES256, merged)
	token.Header["kid"] = t.keyID
	signed, err := token.SignedString(t.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// claims are those of a service-account token.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount bound  `json:"serviceaccount"`
		Pod            *bound `json:"pod"`
		Secret         *bound `json:"secret"`
		Node           *bound `json:"node"`
	} `json:"kubernetes.io"`
}

// bound names one object of one life.
type bound struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// verify checks signature, issuer and times. mine is false for a token of
// someone else, which is not an error.
func (t *ServiceAccountTokens) verify(token string) (c *claims, mine bool, err error) {
	c = &claims{}
	if _, _, err := jwt.NewParser().ParseUnverified(token, c); err != nil || c.Issuer != t.issuer {
		return nil, false, nil
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithIssuer(t.issuer), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway))
	c = &claims{}
	_, err = parser.ParseWithClaims(token, c, t.key)
	if err != nil {
		return nil, true, fmt.Errorf("verify service-account token: %w", err)
	}
	return c, true, nil
}

// key finds the key that a token was signed with.
func (t *ServiceAccountTokens) key(parsed *jwt.Token) (any, error) {
	id, _ := parsed.Header["kid"].(string)
	if key, ok := t.public[id]; ok {
		return key, nil
	}
	return nil, fmt.Errorf("no key with the ID %q", id)
}

// leeway is how far clocks may be apart.
const leeway = 10 * time.Second

// Discovery returns the OpenID discovery document, for others who want to
// verify tokens. keysURL is where KeySet is served.
func (t *ServiceAccountTokens) Discovery(keysURL string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"issuer":                                t.issuer,
		"jwks_uri":                              keysURL,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{jwt.SigningMethodES256.Alg()},
	})
}

// KeySet returns the public keys as a JSON web key set.
func (t *ServiceAccountTokens) KeySet() ([]byte, error) {
	type key struct {
		Use       string `json:"use"`
		KeyType   string `json:"kty"`
		ID        string `json:"kid"`
		Curve     string `json:"crv"`
		Algorithm string `json:"alg"`
		X         string `json:"x"`
		Y         string `json:"y"`
	}
	var keys []key
	for id, public := range t.public {
		point, err := public.Bytes() // 4, X, Y
		if err != nil {
			return nil, fmt.Errorf("encode service-account key: %w", err)
		}
		half := (len(point) - 1) / 2
		keys = append(keys, key{
			Use: "sig", KeyType: "EC", ID: id, Curve: public.Curve.Params().Name, Algorithm: jwt.SigningMethodES256.Alg(),
			X: base64.RawURLEncoding.EncodeToString(point[1 : 1+half]),
			Y: base64.RawURLEncoding.EncodeToString(point[1+half:]),
		})
	}
	return json.Marshal(map[string]any{"keys": keys})
}
