// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// description of a plane that another process runs.
type description struct {
	Dir     string
	APIPort int
	// Programs by name, of the lab's cache.
	Programs map[string]string
}

// Describe writes a file for [Attach], with paths of programs that go with the plane. It is
// put in place by a rename.
func (p *Plane) Describe(file string, programs map[string]string) error {
	b, err := json.Marshal(description{Dir: p.o.Dir, APIPort: p.apiPort, Programs: programs})
	if err != nil {
		return fmt.Errorf("describe the control plane: %w", err)
	}
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return fmt.Errorf("describe the control plane: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("describe the control plane: %w", err)
	}
	return nil
}

// Attach returns the plane that another process runs and has described, with its API
// server at an address that stands for that process's loopback. It can be asked, and
// objects created; its processes are the other's.
func Attach(o Options, file, host string) (*Plane, error) {
	b, err := os.ReadFile(file) //nolint:gosec // of our own
	if err != nil {
		return nil, fmt.Errorf("attach to a control plane: %w", err)
	}
	var d description
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("attach to a control plane: %w", err)
	}
	o.Dir = d.Dir
	p := &Plane{o: o, host: host, apiPort: d.APIPort, tools: d.Programs}
	p.config = p.administrator()
	if p.client, err = kubernetes.NewForConfig(p.config); err != nil {
		return nil, fmt.Errorf("attach to a control plane: %w", err)
	}
	return p, nil
}

// administrator expects the server's certificate, which is for the loopback.
func (p *Plane) administrator() *rest.Config {
	return &rest.Config{
		Host: p.Server(), QPS: -1, WarningHandler: rest.NoWarnings{},
		TLSClientConfig: rest.TLSClientConfig{
			ServerName: "localhost", CAFile: p.key("ca.crt"), CertFile: p.key("admin.crt"), KeyFile: p.key("admin.key"),
		},
	}
}

// Program is the path of one that was given to [Plane.Describe].
func (p *Plane) Program(name string) string { return p.tools[name] }
