package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

const arch = runtime.GOARCH

// What every image but the bare ones stands on: Debian's busybox, with bash as
// sh, since busybox's sh there drops variables such as data-1 and prefers its
// own nc to that of an image.
var (
	basePackages = []string{"busybox-static", "bash-static"}
	baseLinks    = map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
		"usr/bin/bash": "bash-static",
	}
)

// busyboxShell is sh in the image of that name: busybox's, whose words a test
// compares, unless there are variables that it would drop.
const busyboxShell = `#!/usr/bin/bash-static
mapfile -d '' -t all </proc/self/environ
for v in "${all[@]}"; do
	[[ ${v%%=*} == *[!A-Za-z0-9_]* ]] && exec -a "$0" /usr/bin/bash-static "$@"
done
exec -a "$0" /usr/bin/busybox "$@"
`

// baseTree is where the tree that images start from is kept; another one when
// what it is made of is another.
func baseTree(o options) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", baseLinks, basePackages))
	return filepath.Join(o.cache, "trees", fmt.Sprintf("busybox-%x", sum[:4]))
}

// unneeded packages are depended on only by scripts that never run here.
var unneeded = regexp.MustCompile(`^(cdebconf|debconf|dpkg|install-info|tar|libdebian-installer4|libnewt.*|libslang2|libtextwrap1|readline-common|debianutils|passwd|libpam.*|adduser|init-system-helpers)$`)

// makeBase makes the tree that images start from, once.
func makeBase(ctx context.Context, o options, tree string) error {
	if _, err := os.Stat(tree); err == nil {
		return nil
	}
	work := tree + ".new"
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin", "root", "etc", "run", "var", "home"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(work, "tmp"), 0o777); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(work, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	for name, target := range baseLinks {
		if err := os.Symlink(target, filepath.Join(work, name)); err != nil {
			return err
		}
	}
	if err := unpack(ctx, o, work, basePackages, false); err != nil {
		return err
	}
	applets, err := shell(ctx, "", nil, filepath.Join(work, "usr/bin/busybox"), "--list")
	if err != nil {
		return err
	}
	if err := os.Symlink("bash-static", filepath.Join(work, "usr/bin/sh")); err != nil {
		return err
	}
	for _, applet := range strings.Fields(applets) {
		link := filepath.Join(work, "usr/bin", applet)
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.Symlink("busybox", link); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
		"etc/group":  "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
	} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.Rename(work, tree)
}

// unpack extracts Debian packages into a tree, without their scripts; with
// whole, everything that they depend on as well.
func unpack(ctx context.Context, o options, tree string, packages []string, whole bool) error {
	names := packages
	if whole {
		args := append([]string{"depends", "--recurse", "--important", "--no-recommends", "--no-suggests"}, packages...)
		out, err := shell(ctx, "", nil, "apt-cache", args...)
		if err != nil {
			return fmt.Errorf("list what %s need: %w", strings.Join(packages, ", "), err)
		}
		names = closure(out)
	}
	dir := filepath.Join(o.cache, "packages")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var missing []string
	for _, name := range names {
		if found, _ := filepath.Glob(filepath.Join(dir, name+"_*.deb")); len(found) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		if _, err := shell(ctx, dir, nil, "apt-get", append([]string{"download", "-qq"}, missing...)...); err != nil {
			return fmt.Errorf("download packages (does `apt-get update` have to run first?): %w", err)
		}
	}
	for _, name := range names {
		found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("package %s is not in %s: %w", name, dir, err)
		}
		// tar, not dpkg-deb -x: the links that merge /bin into /usr/bin have to stay.
		script := `dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale -C "$2"`
		if _, err := shell(ctx, "", nil, "sh", "-c", script, "unpack", slices.Max(found), tree); err != nil {
			return fmt.Errorf("extract %s: %w", name, err)
		}
	}
	return nil
}

// closure reads the packages out of what apt-cache prints.
func closure(depends string) []string {
	var names []string
	for line := range strings.Lines(depends) {
		name := strings.TrimSpace(line)
		if strings.HasPrefix(line, " ") || strings.HasPrefix(name, "<") || name == "" || unneeded.MatchString(name) {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
