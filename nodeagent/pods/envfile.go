package pods

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/volumes"
)

// envFile is the value that a file in a volume has for ref's key; false if it is
// optional and not there. A key that is set to nothing is as good as none.
func (a *Agent) envFile(pod *v1.Pod, ref *v1.FileKeySelector, mounted *volumes.Mounted) (string, bool, error) {
	source := mounted.Sources[ref.VolumeName]
	if source.Path == "" {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	value, err := func() (string, error) {
		file, err := source.Open(ref.Path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		return readVariable(file, ref.Key)
	}()
	if err != nil {
		a.Logger.Warn("cannot read a file of environment variables", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		return "", false, errors.New("couldn't parse env file")
	}
	if value == "" && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, source.File(ref.Path))
	}
	return value, value != "", nil
}

// readVariable is the value of key in lines of NAME='value', a part of what a
// shell understands: a value is what stands between single quotes, whatever it is
// and over however many lines; comments begin with #. The file is read as far as
// the key's first value. It is empty if the key is not there.
func readVariable(file io.Reader, key string) (string, error) {
	lines := bufio.NewScanner(file)
	number := 0
	next := func() bool { number++; return lines.Scan() }
	fault := func(text string) error {
		return fmt.Errorf("invalid environment variable format at line %d: %s", number, text)
	}
	for next() {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, found := strings.Cut(line, "=")
		switch {
		case !found:
			return "", fault("missing '='")
		case strings.Trim(name, " \t") == "":
			return "", fault("empty variable name")
		case strings.TrimRight(name, " \t") != name:
			return "", fault("whitespace before '=' is not allowed")
		case rest != "" && (rest[0] == ' ' || rest[0] == '\t'):
			if name == key {
				return "", nil // as in a shell, where the value has ended here
			}
			continue
		}
		rest, found = strings.CutPrefix(rest, "'")
		if !found {
			return "", fault("value must be enclosed in single quotes")
		}
		value, after, closed := strings.Cut(rest, "'")
		for began := number; !closed; {
			if !next() {
				return "", fmt.Errorf("invalid environment variable format starting at line %d: unclosed single quote", began)
			}
			var more string
			more, after, closed = strings.Cut(lines.Text(), "'")
			value += "\n" + more
		}
		if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
			return "", fault("unexpected content after closing quote")
		}
		if name == key {
			return value, nil
		}
	}
	return "", lines.Err()
}
