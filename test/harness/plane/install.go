// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// account is the service account of Fairlead's controller.
const account = "fairlead-controller"

// documentSeparator stands between the objects that kustomize prints.
const documentSeparator = "\n---\n"

// shipped is what the manifests say about the controller.
type shipped struct {
	args   []string
	config string
}

// install applies the shipped manifests, except what needs nodes.
func (p *Plane) install(ctx context.Context) error {
	all, err := p.Kubectl(ctx, "", "kustomize", filepath.Join(p.o.Root, "deploy", "kustomize", "base"))
	if err != nil {
		return err
	}
	var objects []string
	for doc := range strings.SplitSeq(all, documentSeparator) {
		kind, err := kindOf(doc)
		if err != nil {
			return err
		}
		switch kind {
		case "Deployment", "DaemonSet", "PodDisruptionBudget":
		default:
			objects = append(objects, doc)
		}
	}
	if err := p.Create(ctx, strings.Join(objects, documentSeparator)); err != nil {
		return err
	}
	return p.waitForKinds(ctx, "ipaddresspools.fairlead.dev", "ipclaims.fairlead.dev", "loadbalancers.fairlead.dev")
}

func kindOf(doc string) (string, error) {
	var t metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &t); err != nil {
		return "", fmt.Errorf("read a manifest: %w", err)
	}
	return t.Kind, nil
}

// Kubectl runs kubectl as administrator and returns what it printed.
func (p *Plane) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.tools["kubectl"], append([]string{"--kubeconfig=" + p.path("admin.kubeconfig")}, args...)...) //nolint:gosec // arguments are this repository's own
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// writeKubeconfig writes NAME.kubeconfig.
func (p *Plane) writeKubeconfig(name, server string, user map[string]any) error {
	b, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "plane",
		"clusters": []any{map[string]any{"name": "plane", "cluster": map[string]any{"server": server, "certificate-authority": p.key("ca.crt")}}},
		"users":    []any{map[string]any{"name": name, "user": user}},
		"contexts": []any{map[string]any{"name": "plane", "context": map[string]any{"cluster": "plane", "user": name}}},
	})
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", name, err)
	}
	if err := os.WriteFile(p.path(name+".kubeconfig"), b, 0o600); err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", name, err)
	}
	return nil
}

// BuildController builds the controller from the work tree into the plane's directory,
// unless the options name one.
func (p *Plane) BuildController(ctx context.Context) error {
	if p.o.ControllerProgram != "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", harness.BuildTags, "-o", p.path(harness.ControllerProgram), "./cmd/"+harness.ControllerProgram) //nolint:gosec // a constant
	cmd.Dir = p.o.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the controller: %w\n%s", err, out)
	}
	return nil
}

// ControllerOptions of one controller process.
type ControllerOptions struct {
	// Name of the process, its kubeconfig and its log.
	Name string
	// Server that it talks to; empty means the API server itself.
	Server string
	// Args come after those of the shipped manifest and override them.
	Args []string
}

// StartController runs a controller as the shipped Deployment does: its arguments and
// configuration, its service account with its permissions, an address of its own.
// [Plane.BuildController] must have been called. One of that name that has ended is forgotten.
func (p *Plane) StartController(ctx context.Context, o ControllerOptions) (*Process, error) {
	s, err := readShipped(filepath.Join(p.o.Root, "deploy", "kustomize", "base", "controller.yaml"))
	if err != nil {
		return nil, err
	}
	if o.Server == "" {
		o.Server = p.Server()
	}
	life := int64(validity / time.Second)
	token, err := p.client.CoreV1().ServiceAccounts(harness.Namespace).CreateToken(ctx, account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &life}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("start %s: token: %w", o.Name, err)
	}
	if err := p.writeKubeconfig(o.Name, o.Server, map[string]any{"token": token.Status.Token}); err != nil {
		return nil, err
	}
	configFile, kubeconfig := p.path(o.Name+".cloud-config.yaml"), p.path(o.Name+".kubeconfig")
	if err := os.WriteFile(configFile, []byte(s.config), 0o600); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	port, err := FreePort(ctx)
	if err != nil {
		return nil, err
	}
	// The last of equal flags counts.
	args := slices.Concat(s.args, []string{
		"--cloud-config=" + configFile, "--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=" + loopback.String(), fmt.Sprintf("--secure-port=%d", port), "--cert-dir=" + p.path(o.Name+".certs"),
	}, o.Args)
	program := p.o.ControllerProgram
	if program == "" {
		program = p.path(harness.ControllerProgram)
	}
	proc, err := startProcess(ctx, o.Name, p.path(o.Name+".log"), program,
		args, []string{"POD_NAMESPACE=" + harness.Namespace})
	if err != nil {
		return nil, err
	}
	p.controllers = append(slices.DeleteFunc(p.controllers, func(c *Process) bool { return c.name == o.Name && c.Ended() }), proc)
	return proc, nil
}

func readShipped(path string) (shipped, error) {
	b, err := os.ReadFile(path) //nolint:gosec // a file of this repository
	if err != nil {
		return shipped{}, fmt.Errorf("read the controller's manifest: %w", err)
	}
	var s shipped
	for doc := range strings.SplitSeq(string(b), documentSeparator) {
		kind, err := kindOf(doc)
		if err != nil {
			return shipped{}, err
		}
		switch kind {
		case "Deployment":
			var d appsv1.Deployment
			if err := yaml.UnmarshalStrict([]byte(doc), &d); err != nil {
				return shipped{}, fmt.Errorf("read the controller's manifest: %w", err)
			}
			s.args = d.Spec.Template.Spec.Containers[0].Args
		case "ConfigMap":
			var c corev1.ConfigMap
			if err := yaml.UnmarshalStrict([]byte(doc), &c); err != nil {
				return shipped{}, fmt.Errorf("read the controller's manifest: %w", err)
			}
			s.config = c.Data["cloud-config.yaml"]
		}
	}
	if len(s.args) == 0 || s.config == "" {
		return shipped{}, errors.New("read the controller's manifest: no arguments or no cloud-config.yaml in it")
	}
	return s, nil
}
