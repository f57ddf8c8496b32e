// SPDX-License-Identifier: Apache-2.0

package artifacts

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// KubernetesVersion is the version of every Kubernetes binary.
const KubernetesVersion = "v1.37.1"

//go:embed modules
var modules embed.FS

// Target is one binary.
type Target struct {
	// Name is the binary's path below the lab's bin directory.
	Name string
	// Module is the wrapper module, a file name in modules/.
	Module string
	// Package is the main package's import path.
	Package string
	Tags    []string
	LDFlags string
	// Cgo links against C libraries of this machine.
	Cgo bool
}

// Targets lists every binary that a lab runs.
func Targets() []Target {
	const plugins = "github.com/containernetworking/plugins/plugins/"
	out := []Target{{Name: "etcd", Module: "etcd", Package: "go.etcd.io/etcd/server/v3", LDFlags: "-s -w"}}
	for _, n := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy"} {
		out = append(out, Target{Name: n, Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/" + n, LDFlags: kubernetesLDFlags()})
	}
	for _, n := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		out = append(out, Target{
			Name: n, Module: "containerd", Package: "github.com/containerd/containerd/v2/cmd/" + n, LDFlags: "-s -w",
			Tags: []string{"no_btrfs", "no_devmapper", "no_zfs"},
		})
	}
	for _, n := range []string{"main/ptp", "main/loopback", "ipam/host-local", "meta/portmap"} {
		out = append(out, Target{Name: "cni/" + path.Base(n), Module: "cni", Package: plugins + n, LDFlags: "-s -w"})
	}
	return append(out, Target{
		Name: "runc", Module: "runc", Package: "github.com/opencontainers/runc", LDFlags: "-s -w",
		// Without the tag, runc refuses every pod that asks for a seccomp profile.
		Tags: []string{"seccomp"}, Cgo: true,
	})
}

// PolicyEnforcer is kube-network-policies, which no lab runs: tests of the data plane do.
func PolicyEnforcer() Target {
	return Target{
		Name: "kube-network-policies", Module: "kube-network-policies", Package: "sigs.k8s.io/kube-network-policies/cmd/kube-network-policies/standard",
		LDFlags: "-s -w",
	}
}

// kubernetesLDFlags stamp the version: without it the binaries say v0.0.0 and
// refuse each other for version skew.
func kubernetesLDFlags() string {
	minor := strings.Split(KubernetesVersion, ".")[1]
	var flags strings.Builder
	flags.WriteString("-s -w")
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		fmt.Fprintf(&flags, " -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=%[3]s -X %[1]s.gitTreeState=clean"+
			" -X %[1]s.gitCommit=module-proxy -X %[1]s.buildDate=1970-01-01T00:00:00Z", p, KubernetesVersion, minor)
	}
	return flags.String()
}

// platform is what a build depends on besides its sources.
type platform struct {
	goVersion, goos, goarch string
}

// key is the content address of a target's binary: equal keys mean equal
// inputs of the build.
func (t *Target) key(p platform) (string, error) {
	mod, sum, err := t.wrapper()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fields := []string{
		p.goVersion, p.goos, p.goarch, t.Package, strings.Join(slices.Sorted(slices.Values(t.Tags)), ","),
		t.LDFlags, fmt.Sprint(t.Cgo), string(mod), string(sum),
	}
	for _, f := range fields {
		// The length keeps neighbouring fields apart.
		if _, err := fmt.Fprintf(h, "%d:%s", len(f), f); err != nil {
			return "", fmt.Errorf("hash: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// wrapper returns the pinned go.mod and go.sum.
func (t *Target) wrapper() (mod, sum []byte, err error) {
	if mod, err = modules.ReadFile("modules/" + t.Module + ".mod"); err != nil {
		return nil, nil, fmt.Errorf("module %s: %w", t.Module, err)
	}
	if sum, err = modules.ReadFile("modules/" + t.Module + ".sum"); err != nil {
		return nil, nil, fmt.Errorf("module %s: %w", t.Module, err)
	}
	return mod, sum, nil
}

// Logger prints one line of progress.
type Logger func(format string, args ...any)

// WriterLogger prints lines to w.
func WriterLogger(w io.Writer) Logger {
	return func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
}
