// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/lab/artifacts"
)

const (
	// readyTimeout bounds the start of one component on a busy machine.
	readyTimeout = 2 * time.Minute
	// serviceRanges have room for 60,000 Services of either family.
	serviceRanges = "10.96.0.0/16,fd00:10:96::/112"
	// advertised is a documentation address (RFC 5737): the API server insists on one
	// that is not loopback, and nobody connects to it.
	advertised = "192.0.2.1"
)

//nolint:gochecknoglobals // a constant of a type that Go has no constants of
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Options of a plane.
type Options struct {
	// Root of the repository, for the manifests.
	Root string
	// Dir holds everything that the plane writes. It must exist and be empty.
	Dir string
	// ControllerProgram, if set, is run in place of what [Plane.BuildController] builds.
	ControllerProgram string
	// Alone leaves out the controller manager, for callers that need no garbage collected
	// and no namespace deleted.
	Alone bool
	// Audit makes the API server write one line per answered request; see [Plane.AuditLog].
	Audit bool
	// Progress gets a line per step.
	Progress io.Writer
}

// Plane is a running control plane. Its methods may not be called concurrently, except
// those that only read.
type Plane struct {
	o     Options
	tools map[string]string
	// host is where the API server is.
	host     string
	etcdPort int
	peerPort int
	apiPort  int
	etcd     *Process
	api      *Process
	manager  *Process
	// controllers in the order of their start.
	controllers []*Process
	config      *rest.Config
	client      kubernetes.Interface
}

// Start runs the control plane and installs Fairlead's resources, permissions and
// policies. Call Stop also when it failed.
func Start(ctx context.Context, o Options) (*Plane, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	p := &Plane{o: o, host: loopback.String()}
	for _, step := range []func(context.Context) error{
		p.findTools, p.prepare, p.startEtcd, p.startAPIServer, p.startManager, p.install,
	} {
		if err := step(ctx); err != nil {
			return p, fmt.Errorf("start the control plane: %w", err)
		}
	}
	_, _ = fmt.Fprintln(o.Progress, "control plane: it runs on loopback, Fairlead's manifests are installed")
	return p, nil
}

// findTools takes the lab's cached binaries, building what is missing.
func (p *Plane) findTools(ctx context.Context) error {
	cache, err := artifacts.DefaultCache()
	if err != nil {
		return err
	}
	var want []artifacts.Target
	for _, t := range artifacts.Targets() {
		switch t.Name {
		case "etcd", "kube-apiserver", "kube-controller-manager", "kubectl":
			want = append(want, t)
		}
	}
	b := artifacts.Builder{Cache: cache, Log: artifacts.WriterLogger(p.o.Progress)}
	p.tools, err = b.Ensure(ctx, want)
	return err
}

func (p *Plane) path(parts ...string) string {
	return filepath.Join(append([]string{p.o.Dir}, parts...)...)
}

func (p *Plane) key(name string) string { return p.path("pki", name) }

// prepare makes keys, configuration files and clients.
func (p *Plane) prepare(ctx context.Context) error {
	if err := makePKI(p.path("pki"), time.Now()); err != nil {
		return err
	}
	var err error
	for _, port := range []*int{&p.etcdPort, &p.peerPort, &p.apiPort} {
		if *port, err = FreePort(ctx); err != nil {
			return err
		}
	}
	for _, user := range []string{"admin", "controller-manager"} {
		identity := map[string]any{"client-certificate": p.key(user + ".crt"), "client-key": p.key(user + ".key")}
		if err := p.writeKubeconfig(user, p.Server(), identity); err != nil {
			return err
		}
	}
	if err := os.WriteFile(p.path("audit-policy.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	p.config = p.administrator()
	if p.client, err = kubernetes.NewForConfig(p.config); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return nil
}

// Server is the URL of the API server.
func (p *Plane) Server() string {
	return "https://" + net.JoinHostPort(p.host, strconv.Itoa(p.apiPort))
}

// Config is the administrator's, without limits of the client's own.
func (p *Plane) Config() *rest.Config { return rest.CopyConfig(p.config) }

// Client is the administrator's.
func (p *Plane) Client() kubernetes.Interface { return p.client }

// ServingPair returns the files of the certificate and the key that a proxy in front of
// the API server may serve with, and the file of their authority.
func (p *Plane) ServingPair() (cert, key, authority string) {
	return p.key("server.crt"), p.key("server.key"), p.key("ca.crt")
}

func (p *Plane) startEtcd(ctx context.Context) error {
	url, peers := fmt.Sprintf("http://%s:%d", loopback, p.etcdPort), fmt.Sprintf("http://%s:%d", loopback, p.peerPort)
	var err error
	p.etcd, err = startProcess(ctx, "etcd", p.path("etcd.log"), p.tools["etcd"], []string{
		"--name=plane", "--data-dir=" + p.path("etcd"), "--log-level=warn",
		"--listen-client-urls=" + url, "--advertise-client-urls=" + url,
		// It has no peers, but must listen for them.
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=plane=" + peers,
		// The process is restarted, never the machine.
		"--unsafe-no-fsync",
	}, nil)
	if err != nil {
		return err
	}
	_, err = harness.Eventually(ctx, readyTimeout, func(ctx context.Context) error {
		return errors.Join(p.etcd.Err(), getOK(ctx, url+"/readyz"))
	})
	return err
}

// getOK fails unless the URL answers with 200.
func getOK(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s", url, resp.Status)
	}
	return nil
}

func (p *Plane) startAPIServer(ctx context.Context) error {
	args := []string{
		fmt.Sprintf("--etcd-servers=http://%s:%d", loopback, p.etcdPort),
		"--bind-address=" + loopback.String(), fmt.Sprintf("--secure-port=%d", p.apiPort),
		"--advertise-address=" + advertised, "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + p.key("server.crt"), "--tls-private-key-file=" + p.key("server.key"),
		"--client-ca-file=" + p.key("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p.key("sa.pub"), "--service-account-signing-key-file=" + p.key("sa.key"),
		"--service-cluster-ip-range=" + serviceRanges, "--authorization-mode=Node,RBAC",
	}
	if p.o.Audit {
		args = append(args, "--audit-policy-file="+p.path("audit-policy.yaml"), "--audit-log-path="+p.AuditLog(),
			"--audit-log-maxsize=4096")
	}
	var err error
	if p.api, err = startProcess(ctx, "kube-apiserver", p.path("apiserver.log"), p.tools["kube-apiserver"], args, nil); err != nil {
		return err
	}
	return p.WaitReady(ctx)
}

// WaitReady waits until the API server says that it is ready.
func (p *Plane) WaitReady(ctx context.Context) error {
	_, err := harness.Eventually(ctx, readyTimeout, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := p.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return errors.Join(p.api.Err(), err)
	})
	return err
}

// startManager runs the controllers that Services need: garbage collection, namespaces
// and service accounts.
func (p *Plane) startManager(ctx context.Context) error {
	if p.o.Alone {
		return nil
	}
	var err error
	p.manager, err = startProcess(ctx, "kube-controller-manager", p.path("controller-manager.log"), p.tools["kube-controller-manager"], []string{
		"--kubeconfig=" + p.path("controller-manager.kubeconfig"), "--bind-address=" + loopback.String(), "--secure-port=0",
		"--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file=" + p.key("sa.key"), "--root-ca-file=" + p.key("ca.crt"),
		"--controllers=garbage-collector-controller,namespace-controller,serviceaccount-controller",
		"--kube-api-qps=1000", "--kube-api-burst=2000",
	}, nil)
	return err
}

// Stop ends every process, controllers first.
func (p *Plane) Stop() error {
	var errs []error
	for _, c := range p.controllers {
		errs = append(errs, c.Stop())
	}
	for _, c := range []*Process{p.manager, p.api, p.etcd} {
		errs = append(errs, c.Stop())
	}
	return errors.Join(errs...)
}

// Err names the processes that ended without being asked to.
func (p *Plane) Err() error {
	errs := []error{p.etcd.Err(), p.api.Err()}
	if p.manager != nil {
		errs = append(errs, p.manager.Err())
	}
	for _, c := range p.controllers {
		errs = append(errs, c.Err())
	}
	return errors.Join(errs...)
}

// RestartEtcd kills etcd and starts it again after the time given, on the same data.
func (p *Plane) RestartEtcd(ctx context.Context, down time.Duration) error {
	if err := p.etcd.Kill(); err != nil {
		return err
	}
	if err := harness.Pause(ctx, down); err != nil {
		return err
	}
	return p.startEtcd(ctx)
}

// PauseAPIServer stops the API server's process for the time given; connections stay open.
func (p *Plane) PauseAPIServer(ctx context.Context, d time.Duration) error {
	if err := p.api.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	perr := harness.Pause(ctx, d)
	return errors.Join(perr, p.api.Signal(syscall.SIGCONT))
}

// FreePort finds a loopback port that nobody listens on, below those that the kernel
// gives to outgoing connections: none of them may get it while its server restarts.
func FreePort(ctx context.Context) (int, error) {
	var last error
	for range 50 {
		port := 20000 + rand.IntN(12000) //nolint:gosec // chance, not secrecy
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(loopback.String(), strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}
