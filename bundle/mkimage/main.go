package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"clusterctl/bundle/ociarchive"
)

// options are the command line.
type options struct {
	names            []string
	binary, tree     string
	entrypoint, cmd  []string
	arch, user, work string
	out              string
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("mkimage: ")
	var o options
	list := func(name, usage string, into *[]string) {
		flag.Func(name, usage+"; may be repeated", func(s string) error {
			*into = append(*into, s)
			return nil
		})
	}
	list("name", "full name of the image, with tag", &o.names)
	flag.StringVar(&o.binary, "binary", "", "static program; it becomes the image's entry point, /<base name>")
	flag.StringVar(&o.tree, "tree", "", "directory that becomes the image's root, owned by root; in place of -binary")
	list("entrypoint", "word of the entry point of a -tree", &o.entrypoint)
	list("cmd", "word of the command that follows the entry point", &o.cmd)
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "architecture of the programs")
	flag.StringVar(&o.user, "user", "65532:65532", "user and group that it runs as")
	flag.StringVar(&o.work, "workdir", "", "directory that it runs in")
	flag.StringVar(&o.out, "out", "", "archive to write")
	flag.Parse()
	if err := run(o); err != nil {
		log.Fatal(err)
	}
}

func run(o options) error {
	if len(o.names) == 0 || (o.binary == "") == (o.tree == "") || o.out == "" {
		return fmt.Errorf("-name, -out and one of -binary and -tree are needed")
	}
	image := ociarchive.Image{
		Name: o.names[0], Aliases: o.names[1:], Arch: o.arch,
		Config: v1.ImageConfig{Entrypoint: o.entrypoint, Cmd: o.cmd, User: o.user, WorkingDir: o.work,
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
	}
	if o.binary != "" {
		content, err := os.ReadFile(o.binary)
		if err != nil {
			return fmt.Errorf("read program: %w", err)
		}
		entry := "/" + filepath.Base(o.binary)
		image.Config.Entrypoint, image.Config.Env = []string{entry}, nil
		image.Files = []ociarchive.File{{Path: entry, Mode: 0o755, Content: content}}
	} else {
		var err error
		if image.Files, err = ociarchive.Tree(o.tree); err != nil {
			return err
		}
	}
	f, err := os.Create(o.out)
	if err != nil {
		return fmt.Errorf("create archive: %w", err)
	}
	target, err := ociarchive.Write(f, image)
	if err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	for _, name := range o.names {
		fmt.Println(name, target)
	}
	return nil
}
