package hostop

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"time"
)

// Op is a desired state of one thing on a host. Implementations are the
// pointer types below and nothing else; they hold data only.
type Op interface {
	// Describe says in a few words what the operation makes true, for plans
	// and progress: "file /etc/clusterctl/etcd.yaml". It never shows content.
	Describe() string
}

// Directory exists with this mode, owned by root.
type Directory struct {
	Path string      `json:"path"`
	Mode fs.FileMode `json:"mode"`
}

// File has exactly this content and mode, owned by root. It is replaced
// atomically (temporary file in the same directory, fsync, rename).
type File struct {
	Path    string      `json:"path"`
	Mode    fs.FileMode `json:"mode"`
	Content []byte      `json:"content"`
}

// Link is a symbolic link at Path to Target.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// Absent says that nothing is at Path, file or tree.
type Absent struct {
	Path string `json:"path"`
}

// Blob is a file of the payload, unpacked at Path with Mode. Digest and Size
// are of the compressed form that travels; SHA256 is of the unpacked file and
// is what a check compares (cached by size and modification time on the host).
type Blob struct {
	Path   string      `json:"path"`
	Mode   fs.FileMode `json:"mode"`
	Digest string      `json:"digest"` // sha256:… of the compressed bytes
	Size   int64       `json:"size"`   // of the compressed bytes
	SHA256 string      `json:"sha256"` // hex, of the unpacked file
}

// Image is a payload's OCI archive that the runtime has under Name and keeps:
// in containerd's k8s.io namespace, unpacked, or in CRI-O's storage.
type Image struct {
	Name    string `json:"name"`   // docker.io/library/…:tag
	Digest  string `json:"digest"` // of the compressed archive
	Size    int64  `json:"size"`
	Target  string `json:"target"`            // sha256:… of the image's index or manifest: what Name must point at
	Runtime string `json:"runtime,omitempty"` // hostconfig.Runtime…; empty: containerd
}

// Authorities says that hostconfig.PKI.AuthorityDir holds the cluster's CAs.
// Bundle is empty in a plan; bootstrap/execute fills it in just before the
// operation travels. Keys has the public-key fingerprints a check compares,
// by file name; it is empty when the cluster has no CA yet.
type Authorities struct {
	PKIDir string            `json:"pkiDir"`
	Keys   map[string]string `json:"keys,omitempty"`
	Bundle map[string][]byte `json:"bundle,omitempty"` // file name to PEM; secret
}

// Encryption says that hostconfig.PKI.Encryption holds keys of Secrets in etcd.
// Any that are there are in place, since taking one away makes Secrets
// unreadable, unless Replace is set, which a rotation does. Content is empty in
// a plan; bootstrap/execute fills it in just before the operation travels.
type Encryption struct {
	PKIDir  string `json:"pkiDir"`
	Content []byte `json:"content,omitempty"` // secret
	Replace bool   `json:"replace,omitempty"`
}

// Certificate says that a leaf pair exists, is signed by Authority, carries
// these names, and is not about to expire (RenewBefore). Cert, Key and CA are empty
// in a plan; bootstrap/execute issues the pair just before the operation
// travels. AuthorityKey is the fingerprint of the CA's public key that a check
// compares with the issuer; empty when the cluster has no CA yet.
type Certificate struct {
	PKIDir       string        `json:"pkiDir"`
	Pair         string        `json:"pair"`      // hostconfig.Pair…
	Authority    string        `json:"authority"` // hostconfig.Authority…
	CommonName   string        `json:"commonName"`
	Organization []string      `json:"organization,omitempty"`
	DNSNames     []string      `json:"dnsNames,omitempty"`
	IPs          []string      `json:"ips,omitempty"`
	Client       bool          `json:"client,omitempty"` // extended key usages
	Server       bool          `json:"server,omitempty"`
	RenewBefore  time.Duration `json:"renewBefore"`
	AuthorityKey string        `json:"authorityKey,omitempty"`
	Cert         []byte        `json:"cert,omitempty"`
	Key          []byte        `json:"key,omitempty"` // secret
}

// TrustAnchor says that Path holds the certificate of Authority, without its
// key. Cert is filled in by bootstrap/execute, like a Certificate's.
type TrustAnchor struct {
	Path         string `json:"path"`
	Authority    string `json:"authority"`
	AuthorityKey string `json:"authorityKey,omitempty"`
	Cert         []byte `json:"cert,omitempty"`
}

// Unit is a service definition of the host's init system, enabled at boot.
// Content is written to the init system's directory under Name.
type Unit struct {
	Name    string `json:"name"` // without .service
	Content []byte `json:"content"`
}

// Service is running, started since everything that Fingerprint stands for was
// in place: a check compares it with the fingerprint recorded at the last
// (re)start, so that a changed binary or configuration restarts it once and an
// unchanged one never.
type Service struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
}

// EtcdMember says that this host is a voting, started member of the etcd
// cluster whose other members listen at Peers. Applied, it writes
// hostconfig.EtcdConf and starts the unit: alone as a new cluster when Found is
// true and no peer answers as a member yet, else by joining as a learner and
// being promoted. Config has everything but InitialCluster and InitialState.
type EtcdMember struct {
	Config      []byte        `json:"config"` // hostconfig.Etcd as YAML
	Found       bool          `json:"found,omitempty"`
	Peers       []string      `json:"peers,omitempty"` // https://host:2379 of the others, in joining order
	Fingerprint string        `json:"fingerprint"`
	Timeout     time.Duration `json:"timeout"`
}

// Ready says that an HTTPS endpoint answers 200, within Timeout when applied.
type Ready struct {
	URL     string        `json:"url"`
	CAFile  string        `json:"caFile"`
	Cert    string        `json:"cert,omitempty"` // client pair
	Key     string        `json:"key,omitempty"`
	Timeout time.Duration `json:"timeout"`
}

// NodeReady says that node Name is Ready, carries Labels, and (on a node that
// clusterctl has not tainted before) Taints. It runs on a control plane, with
// hostconfig.AdminCfg.
type NodeReady struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Timeout time.Duration     `json:"timeout"`
}

// Manifests says that every object of these YAML documents was applied
// server-side with this content, and that the Deployments among Wait are
// available. It runs on a control plane, with hostconfig.AdminCfg.
type Manifests struct {
	Name    string        `json:"name"` // field manager suffix and what a plan shows
	YAML    []byte        `json:"yaml"`
	Wait    []string      `json:"wait,omitempty"` // namespace/name of Deployments
	Timeout time.Duration `json:"timeout"`
}

// NodeDrained says that node Name, if there is one, takes no pods and runs none
// but those of daemon sets, static ones and ended ones. Applied, it evicts, which
// waits for disruption budgets as long as Timeout. It runs on a control plane,
// with hostconfig.AdminCfg.
type NodeDrained struct {
	Name    string        `json:"name"`
	Timeout time.Duration `json:"timeout"`
}

// NodeGone says that there is no node Name. It runs on a control plane, with
// hostconfig.AdminCfg.
type NodeGone struct {
	Name string `json:"name"`
}

// EtcdMemberGone says that no member of etcd has the peer address of Address.
// Applied, it first waits until the members that stay have a quorum of their
// own. It runs on one of those.
type EtcdMemberGone struct {
	Name    string        `json:"name"` // the host's
	Address string        `json:"address"`
	Timeout time.Duration `json:"timeout"`
}

// Cleared says that nothing of clusterctl is on the host: what a reset leaves.
type Cleared struct{}

func (o *Directory) Describe() string   { return "directory " + o.Path }
func (o *File) Describe() string        { return "file " + o.Path }
func (o *Link) Describe() string        { return "link " + o.Path + " -> " + o.Target }
func (o *Absent) Describe() string      { return "nothing at " + o.Path }
func (o *Blob) Describe() string        { return "binary " + o.Path }
func (o *Image) Describe() string       { return "image " + o.Name }
func (o *Authorities) Describe() string { return "certificate authorities in " + o.PKIDir }
func (o *Encryption) Describe() string  { return "encryption keys in " + o.PKIDir }
func (o *Certificate) Describe() string {
	return fmt.Sprintf("certificate %s (%s)", o.Pair, o.CommonName)
}
func (o *TrustAnchor) Describe() string { return "CA certificate " + o.Path }
func (o *Unit) Describe() string        { return "unit " + o.Name }
func (o *Service) Describe() string     { return "service " + o.Name + " running" }
func (o *EtcdMember) Describe() string  { return "etcd member started and voting" }
func (o *Ready) Describe() string       { return o.URL + " ready" }
func (o *NodeReady) Describe() string   { return "node " + o.Name + " Ready" }
func (o *Manifests) Describe() string   { return "manifests " + o.Name + " applied" }

func (o *NodeDrained) Describe() string { return "node " + o.Name + " drained" }
func (o *NodeGone) Describe() string    { return "no node " + o.Name }
func (o *EtcdMemberGone) Describe() string {
	return "no etcd member at " + o.Address
}
func (o *Cleared) Describe() string { return "nothing of clusterctl on the host" }

// Ops is a list of operations with a JSON form: each an object whose one key
// names the type, {"file": {…}}.
type Ops []Op

// kinds lists every operation under its JSON key.
var kinds = map[string]func() Op{
	"directory":   func() Op { return new(Directory) },
	"file":        func() Op { return new(File) },
	"link":        func() Op { return new(Link) },
	"absent":      func() Op { return new(Absent) },
	"blob":        func() Op { return new(Blob) },
	"image":       func() Op { return new(Image) },
	"authorities": func() Op { return new(Authorities) },
	"encryption":  func() Op { return new(Encryption) },
	"certificate": func() Op { return new(Certificate) },
	"trustAnchor": func() Op { return new(TrustAnchor) },
	"unit":        func() Op { return new(Unit) },
	"service":     func() Op { return new(Service) },
	"etcdMember":  func() Op { return new(EtcdMember) },
	"ready":       func() Op { return new(Ready) },
	"nodeReady":   func() Op { return new(NodeReady) },
	"manifests":   func() Op { return new(Manifests) },
	"nodeDrained": func() Op { return new(NodeDrained) },
	"nodeGone":    func() Op { return new(NodeGone) },
	"etcdGone":    func() Op { return new(EtcdMemberGone) },
	"cleared":     func() Op { return new(Cleared) },
}

// Kind is the JSON key of an operation's type.
func Kind(op Op) string {
	for key, make := range kinds {
		if fmt.Sprintf("%T", make()) == fmt.Sprintf("%T", op) {
			return key
		}
	}
	panic(fmt.Sprintf("hostop: %T is not a registered operation", op))
}

// MarshalJSON implements json.Marshaler.
func (ops Ops) MarshalJSON() ([]byte, error) {
	list := make([]map[string]Op, len(ops))
	for i, op := range ops {
		list[i] = map[string]Op{Kind(op): op}
	}
	return json.Marshal(list)
}

// UnmarshalJSON implements json.Unmarshaler; an unknown kind is an error.
func (ops *Ops) UnmarshalJSON(raw []byte) error {
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("decode operations: %w", err)
	}
	*ops = make(Ops, 0, len(list))
	for i, entry := range list {
		if len(entry) != 1 {
			return fmt.Errorf("decode operation %d: want one key, got %d", i, len(entry))
		}
		for key, body := range entry {
			make, ok := kinds[key]
			if !ok {
				return fmt.Errorf("decode operation %d: unknown kind %q", i, key)
			}
			op := make()
			if err := json.Unmarshal(body, op); err != nil {
				return fmt.Errorf("decode operation %d (%s): %w", i, key, err)
			}
			*ops = append(*ops, op)
		}
	}
	return nil
}
