// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// cluster is the API server that all tests share. Each test has namespaces of its own; the
// one ExternalIPPolicy is TestExternalIPs' alone.
var cluster *server

// errFailed says that the tests ran and some failed.
var errFailed = errors.New("tests failed")

func TestMain(m *testing.M) {
	// The servers die with the thread that started them.
	runtime.LockOSThread()
	if err := withServer(m.Run); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "policy:", err)
		os.Exit(1)
	}
}

// withServer runs tests on a fresh API server with the base applied.
func withServer(tests func() int) error {
	ctx := context.Background() //nolint:forbidigo // there is no test yet
	dir, err := os.MkdirTemp("", "fairlead-policy-")
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := startServer(ctx, dir)
	if s != nil {
		defer s.stop()
	}
	if err != nil {
		return err
	}
	if err := s.install(ctx); err != nil {
		return err
	}
	cluster = s
	if tests() != 0 {
		return errFailed
	}
	return nil
}

// config is the administrator's access.
func (s *server) config() *rest.Config {
	return &rest.Config{
		Host: s.url, BearerToken: adminToken, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{
			// The API server signs a certificate for itself when it finds none.
			CAFile: filepath.Join(s.dir, "tls", "apiserver.crt"), ServerName: "kubernetes",
		},
	}
}

func ready(ctx context.Context, cfg *rest.Config) error {
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	_, err = c.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	return nil
}
