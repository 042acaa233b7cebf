package remote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"clusterctl/bootstrap/ssh"
	"clusterctl/bundle/payload"
	"clusterctl/hostconfig"
)

// Hand is the program to run on hosts.
type Hand struct {
	// Sums are the hex SHA-256 of the binary by GOARCH.
	Sums map[string]string
	// Gzip gives the binary of a GOARCH compressed with gzip. It is called at
	// most once for each.
	Gzip func(arch string) ([]byte, error)

	places *places // tests: other ones

	mu     sync.Mutex
	packed map[string][]byte
}

// places are where a hand may be on a host.
type places struct {
	installed string   // directory of the installed binaries
	run       string   // made where it is missing
	uploads   []string // prefixes of directories for uploaded hands, best first
}

// hostPlaces are those of real hosts. /run is gone with the next boot, but may
// forbid running programs.
var hostPlaces = &places{
	installed: hostconfig.BinDir,
	run:       hostconfig.RunDir,
	uploads:   []string{hostconfig.RunDir + "/hand-", "/var/tmp/clusterctl-hand-"},
}

func (h *Hand) where() *places {
	if h.places != nil {
		return h.places
	}
	return hostPlaces
}

// PayloadHand is the nodeagent that this build of clusterctl carries.
func PayloadHand() (*Hand, error) {
	h := &Hand{Sums: map[string]string{}, Gzip: func(arch string) ([]byte, error) {
		compressed, _, err := payload.Hand(arch)
		return compressed, err
	}}
	for _, arch := range payload.Architectures() {
		manifest, err := payload.Load(arch)
		if err != nil {
			return nil, err
		}
		entry, ok := manifest.Entry("nodeagent")
		if !ok {
			return nil, fmt.Errorf("the payload for %s has no nodeagent", arch)
		}
		h.Sums[arch] = entry.SHA256
	}
	if len(h.Sums) == 0 {
		return nil, payload.ErrNone
	}
	return h, nil
}

func (h *Hand) compressed(arch string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if raw, ok := h.packed[arch]; ok {
		return raw, nil
	}
	raw, err := h.Gzip(arch)
	if err != nil {
		return nil, err
	}
	if h.packed == nil {
		h.packed = map[string][]byte{}
	}
	h.packed[arch] = raw
	return raw, nil
}

// goarch names machines as Go does.
var goarch = map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

// look is the script that finds a hand, run as root. It prints "arch …",
// "hand …" where one is there, and "tools …" for what is missing.
func (h *Hand) look() string {
	var b strings.Builder
	b.WriteString("machine=$(uname -m)\necho \"machine $machine\"\ncase \"$machine\" in\n")
	for _, machine := range slices.Sorted(maps.Keys(goarch)) {
		if sum, ok := h.Sums[goarch[machine]]; ok {
			fmt.Fprintf(&b, "%s) sum=%s ;;\n", machine, sum)
		}
	}
	b.WriteString("*) exit 0 ;;\nesac\n")
	b.WriteString(sumFunction)
	w := h.where()
	fmt.Fprintf(&b, "short=$(printf %%.12s \"$sum\")\nfor f in %s/nodeagent", w.installed)
	for _, prefix := range w.uploads {
		fmt.Fprintf(&b, " %s$short/nodeagent", prefix)
	}
	b.WriteString(`; do
  if [ -x "$f" ] && [ -O "$f" ] && [ "$(sum_of "$f")" = "$sum" ]; then echo "hand $f"; break; fi
done
`)
	return b.String()
}

// sumFunction hashes a file with what the host has.
const sumFunction = `sum_of() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum < "$1" | cut -d " " -f 1
  elif command -v openssl >/dev/null 2>&1; then openssl dgst -sha256 -r < "$1" | cut -d " " -f 1
  else echo "neither sha256sum nor openssl is installed" >&2; fi
}
`

// put is the script that stores the hand it reads from standard input, run as
// root. It prints where. A directory that something else made is not used.
func (h *Hand) put(arch string) string {
	sum, w := h.Sums[arch], h.where()
	var directories strings.Builder
	for _, prefix := range w.uploads {
		fmt.Fprintf(&directories, " %s%.12s", prefix, sum)
	}
	return sumFunction + fmt.Sprintf(`umask 077
mkdir -p -m 0755 %[1]s
for d in%[2]s; do
  mkdir -p -m 0700 "$d" 2>/dev/null && [ -O "$d" ] && [ ! -L "$d" ] && chmod 0700 "$d" || continue
  printf "#!/bin/sh\n" > "$d/.try" && chmod 0700 "$d/.try" && "$d/.try" 2>/dev/null
  ok=$?; rm -f "$d/.try"; [ "$ok" = 0 ] || { rmdir "$d" 2>/dev/null; continue; }
  t="$d/.nodeagent.$$"; trap "rm -f \"$t\"" EXIT
  gzip -dc > "$t" || { echo "unpacking failed" >&2; exit 1; }
  got=$(sum_of "$t"); [ "$got" = %[3]s ] || { echo "what arrived has checksum $got" >&2; exit 1; }
  chmod 0700 "$t" && mv -f "$t" "$d/nodeagent" && echo "$d/nodeagent" && exit 0
  exit 1
done
echo "none of%[2]s can hold a program" >&2
exit 1
`, w.run, directories.String(), sum)
}

// found is what a host told in the first round trip.
type found struct {
	access ssh.RootAccess
	arch   string
	hand   string // path of a good one; empty: none
}

// probe looks at the host in one round trip, or two where sudo wants a
// password.
func (h *Hand) probe(ctx context.Context, client *ssh.Client) (found, *ssh.Root, error) {
	look := "sh -c " + ssh.Quote(h.look())
	script := ssh.RootProbe + `
echo "root $root"
case "$root" in
root) ` + look + ` ;;
sudo) sudo -n -- ` + look + ` ;;
esac
`
	out, _, err := client.Run(ctx, "sh -c "+ssh.Quote(script), nil)
	if err != nil {
		return found{}, nil, fmt.Errorf("look at the host: %w", err)
	}
	f, err := parseFound(out)
	if err != nil {
		return found{}, nil, err
	}
	root, err := client.Root(ctx, f.access)
	if err != nil {
		return found{}, nil, err
	}
	if f.arch == "" && f.access == ssh.RootPassword {
		out, _, err := root.Run(ctx, look, nil)
		if err != nil {
			return found{}, nil, fmt.Errorf("look at the host: %w", err)
		}
		second, err := parseFound(append([]byte("root "+string(f.access)+"\n"), out...))
		if err != nil {
			return found{}, nil, err
		}
		f = second
	}
	if _, ok := h.Sums[f.arch]; !ok {
		return found{}, nil, fmt.Errorf("the host's architecture is %q; this build of clusterctl carries %s", f.arch, strings.Join(slices.Sorted(maps.Keys(h.Sums)), ", "))
	}
	return f, root, nil
}

// parseFound reads the lines of a probe. Others, such as a greeting that a
// shell's start-up file prints, are passed over.
func parseFound(out []byte) (found, error) {
	var f found
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "root":
			f.access = ssh.RootAccess(value)
		case "machine":
			if f.arch = goarch[value]; f.arch == "" {
				f.arch = value
			}
		case "hand":
			f.hand = value
		}
	}
	if f.access == "" {
		return found{}, errors.New("look at the host: it did not answer as a POSIX shell would; is the user's shell one?")
	}
	return f, nil
}
