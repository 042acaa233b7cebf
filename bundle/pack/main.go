package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"

	"clusterctl/bundle/payload"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("pack: ")
	arch := flag.String("arch", runtime.GOARCH, "architecture of the hosts: amd64 or arm64")
	version := flag.String("version", "dev", "version of clusterctl")
	out := flag.String("out", "bundle/payload/files", "where the payload goes")
	cache := flag.String("cache", ".cache/bundle", "where builds are kept between runs")
	flag.Parse()
	if err := run(*arch, *version, *out, *cache); err != nil {
		log.Fatal(err)
	}
}

func run(arch, version, out, cache string) error {
	if _, err := os.Stat("bundle/pack"); err != nil {
		return errors.New("run me at the root of the repository: go run ./bundle/pack")
	}
	packer := &packer{arch: arch, version: version, out: filepath.Join(out, arch), cache: filepath.Join(cache, arch)}
	for _, dir := range []string{packer.out, packer.cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	manifest := payload.Manifest{Version: version, Arch: arch}
	for _, c := range components(version) {
		entry, err := packer.pack(c)
		if err != nil {
			return fmt.Errorf("pack %s: %w", c.name, err)
		}
		manifest.Entries = append(manifest.Entries, entry)
	}
	raw, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return fmt.Errorf("marshal manifest: %w", err)
	}
	if err := writeFile(filepath.Join(packer.out, payload.ManifestName), raw); err != nil {
		return err
	}
	return packer.removeStrangers(manifest)
}
