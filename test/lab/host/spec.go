// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Environment variables that mark every process of a lab, so that a later
// command finds them without a pid file.
const (
	EnvLab       = "FAIRLEAD_LAB"
	EnvHost      = "FAIRLEAD_LAB_HOST"
	EnvComponent = "FAIRLEAD_LAB_COMPONENT"
)

// Spec is everything PID 1 of a host must know. It is written to
// <Dir>/spec.json before the host starts and read by the host itself.
type Spec struct {
	// Lab is the lab's id, unique on the machine.
	Lab string `json:"lab"`
	// Name is the host name, and the name of its port on the switch.
	Name string `json:"name"`
	// Dir is the host's directory below the state directory, absolute.
	Dir string `json:"dir"`
	// Node says that the host runs kubelet and containerd: it gets /var/lib of
	// its own, harmless kernel tunables and a mount tree that propagates.
	Node bool `json:"node"`
	// EtcHosts replaces /etc/hosts.
	EtcHosts string `json:"etcHosts"`
	// Sysctls are files below /proc/sys/net and their values.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Binds are absolute source → absolute target; the target is made if its
	// parent is the host's own (/run, /var/lib of a node).
	Binds []Bind `json:"binds,omitempty"`
	// Processes are started in order and kept running.
	Processes []Process `json:"processes,omitempty"`
}

// Bind is one bind mount inside a host.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Process is one component of a host.
type Process struct {
	// Name is unique in the host; the log is <Dir>/log/<Name>.log.
	Name string   `json:"name"`
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	// After are conditions that must hold before the process starts:
	// unix:<path>, file:<path>, or an https URL that must answer 200.
	After []string `json:"after,omitempty"`
}

// LogPath is where the process with that name writes its output.
func (s *Spec) LogPath(process string) string {
	return filepath.Join(s.Dir, "log", process+".log")
}

// Path is where the specification is stored.
func (s *Spec) Path() string { return filepath.Join(s.Dir, "spec.json") }

// Save writes the specification to its place, making the directories.
func (s *Spec) Save() error {
	if err := os.MkdirAll(filepath.Join(s.Dir, "log"), 0o750); err != nil {
		return fmt.Errorf("host %s: %w", s.Name, err)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("host %s: %w", s.Name, err)
	}
	return writeFileAtomic(s.Path(), b)
}

// LoadSpec reads a specification written by Save.
func LoadSpec(path string) (*Spec, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the path is the lab's own state
	if err != nil {
		return nil, fmt.Errorf("host specification: %w", err)
	}
	s := &Spec{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("host specification %s: %w", path, err)
	}
	return s, nil
}

// writeFileAtomic replaces path in one step, so that a crash leaves either the
// old content or the new.
func writeFileAtomic(path string, b []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
