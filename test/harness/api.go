// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// readTimeout bounds one read: of a paused API server nobody hears anything.
const readTimeout = 10 * time.Second

// socket is where a kubectl proxy of the lab listens while a [Session] runs: a socket in
// the file system is reached from outside the lab's network.
func (l *Lab) socket() string { return filepath.Join(l.stateDir, "api.sock") }

// newReader is the client of that proxy. Waiting means looking again and again, and a
// process for each look costs more processor time than all of the cluster.
func newReader(socket string) *http.Client {
	return &http.Client{Timeout: readTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
}

// serveReads runs the proxy until stop is called. Without it reads start a kubectl each.
func (l *Lab) serveReads(ctx context.Context) (stop func(), err error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), l.bin, "kubectl", "--state-dir", l.stateDir, "--", //nolint:gosec // running the lab's commands is this package's purpose
		"proxy", "--unix-socket="+l.socket())
	cmd.Dir = l.root
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a proxy for reads: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // ends by our own signal; a proxy that ends early is replaced by kubectl
		close(done)
	}()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		t := time.NewTimer(5 * time.Second)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			_ = cmd.Process.Kill()
		}
		l.reader.CloseIdleConnections()
	}
	if _, err = Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		_, err := l.read(ctx, "/version")
		return err
	}); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// errNoProxy says that nothing listens for reads.
var errNoProxy = errors.New("no proxy for reads runs")

// read gets a path of the API through the proxy.
func (l *Lab) read(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := l.reader.Do(req)
	if err != nil {
		if op := (&net.OpError{}); errors.As(err, &op) && op.Op == "dial" {
			return nil, fmt.Errorf("%w: %w", errNoProxy, err)
		}
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		st := metav1.Status{}
		if json.Unmarshal(body, &st) != nil || st.Message == "" {
			st.Message = strings.TrimSpace(string(body))
		}
		return nil, fmt.Errorf("get %s: %s: %s", path, resp.Status, st.Message)
	}
	return body, nil
}

// kind is where the API has the objects of one name of kubectl's.
type kind struct {
	prefix, plural string
	cluster        bool
}

// kinds are those that are read often.
func kinds() map[string]kind {
	const core, ours = "/api/v1", "/apis/fairlead.dev/v1alpha1"
	out := map[string]kind{
		"lease": {prefix: "/apis/coordination.k8s.io/v1", plural: "leases"},
	}
	add := func(k kind, names ...string) {
		for _, n := range names {
			out[n] = k
		}
	}
	add(kind{core, "services", false}, "service", "services", "svc")
	add(kind{core, "pods", false}, "pod", "pods")
	add(kind{core, "events", false}, "events")
	add(kind{core, "nodes", true}, "node", "nodes")
	add(kind{ours, "loadbalancers", false}, "loadbalancer.fairlead.dev", "loadbalancers.fairlead.dev")
	for _, name := range []string{"ipclaim", "ipaddresspool", "l2advertisement", "nodeagent"} {
		add(kind{ours, name + "s", true}, name+".fairlead.dev", name+"s.fairlead.dev")
	}
	return out
}

// path translates the arguments of a kubectl get, as far as reads need it.
func path(args []string) (string, bool) {
	if len(args) == 0 {
		return "", false
	}
	k, known := kinds()[args[0]]
	if !known {
		return "", false
	}
	namespace, name, all, query := "default", "", false, url.Values{}
	for i := 1; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-A":
			all = true
		case (a == "-n" || a == "-l" || a == "--field-selector") && i+1 < len(args):
			i++
			switch a {
			case "-n":
				namespace = args[i]
			case "-l":
				query.Set("labelSelector", args[i])
			default:
				query.Set("fieldSelector", args[i])
			}
		case name == "" && !strings.HasPrefix(a, "-"):
			name = a
		default:
			return "", false
		}
	}
	p := k.prefix
	if !k.cluster && !all {
		p += "/namespaces/" + url.PathEscape(namespace)
	}
	p += "/" + k.plural
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	if len(query) > 0 {
		p += "?" + query.Encode()
	}
	return p, true
}
