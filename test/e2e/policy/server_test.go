// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/artifacts"
)

// startTimeout is how long etcd and the API server may take together; alone on two cores
// they take about five seconds.
const startTimeout = 60 * time.Second

// adminToken is the bearer token of a member of system:masters, valid on loopback for the
// life of the test.
const adminToken = "policy-tests"

// server is a control plane without controllers and nodes.
type server struct {
	dir     string
	kubectl string
	url     string
	started []*exec.Cmd
}

// startServer starts etcd and the API server with data and logs below dir. The caller must
// stay on its thread: the processes die with it, so that a killed test leaves nothing.
func startServer(ctx context.Context, dir string) (*server, error) {
	bins, err := binaries(ctx)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(ctx, 3)
	if err != nil {
		return nil, err
	}
	if err := serviceAccountKey(filepath.Join(dir, "sa.key")); err != nil {
		return nil, err
	}
	tokens := filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(adminToken+`,administrator,1,"system:masters"`+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	s := &server{dir: dir, kubectl: bins["kubectl"], url: "https://127.0.0.1:" + ports[2]}
	etcd, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	err = s.start(
		bins["etcd"], "--name=policy", "--data-dir="+filepath.Join(dir, "etcd"), "--log-level=warn", "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=policy="+peer)
	if err != nil {
		return s, err
	}
	err = s.start(
		bins["kube-apiserver"], "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+ports[2],
		"--cert-dir="+filepath.Join(dir, "tls"), "--token-auth-file="+tokens, "--authorization-mode=RBAC",
		// Nothing listens there: it goes into the EndpointSlice of default/kubernetes only.
		"--advertise-address=192.0.2.1",
		"--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file="+filepath.Join(dir, "sa.key"))
	if err != nil {
		return s, err
	}
	return s, s.waitReady(ctx)
}

// stop ends the processes, the last one first.
func (s *server) stop() {
	for _, cmd := range slices.Backward(s.started) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// binaries finds or builds what the tests run, as the lab does.
func binaries(ctx context.Context) (map[string]string, error) {
	cache, err := artifacts.DefaultCache()
	if err != nil {
		return nil, err
	}
	var wanted []artifacts.Target
	for _, t := range artifacts.Targets() {
		switch t.Name {
		case "etcd", "kube-apiserver", "kubectl":
			wanted = append(wanted, t)
		}
	}
	b := artifacts.Builder{Cache: cache, Log: artifacts.WriterLogger(os.Stdout)}
	return b.Ensure(ctx, wanted)
}

// freePorts returns TCP ports on 127.0.0.1 that were free a moment ago.
func freePorts(ctx context.Context, n int) ([]string, error) {
	var out []string
	for range n {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("free port: %w", err)
		}
		out = append(out, port)
	}
	return out, nil
}

func serviceAccountKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	return nil
}

func (s *server) start(program string, args ...string) error {
	log, err := os.Create(s.log(program))
	if err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	defer func() { _ = log.Close() }()
	// Not CommandContext: stop ends the processes in order.
	cmd := &exec.Cmd{Path: program, Args: append([]string{program}, args...), Dir: s.dir, Stdout: log, Stderr: log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	s.started = append(s.started, cmd)
	return nil
}

func (s *server) log(program string) string {
	return filepath.Join(s.dir, filepath.Base(program)+".log")
}

// waitReady waits until the API server is ready, or returns the end of its log.
func (s *server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cfg := s.config()
	for {
		err := ready(ctx, cfg)
		if err == nil {
			return nil
		}
		if wait(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("API server: %w; its log ends:\n%s", err, tail(s.log("kube-apiserver"), 15))
		}
	}
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// wait waits for d, or returns why it could not.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// flags make kubectl the administrator of this server.
func (s *server) flags() []string {
	return []string{
		"--server=" + s.url, "--token=" + adminToken, "--tls-server-name=kubernetes",
		"--certificate-authority=" + s.config().CAFile, "--kubeconfig=/dev/null",
	}
}

// run runs the lab's kubectl as the administrator, in the repository's root.
func (s *server) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.kubectl, append(s.flags(), args...)...)
	cmd.Dir = filepath.Join("..", "..", "..")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
