// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status/statustest"
)

// oldCRD is an API server whose NodeAgents do not have some fields. It answers as
// kube-apiserver 1.36 does.
type oldCRD struct {
	*statustest.NodeAgents

	lacks []string
}

func (o *oldCRD) Patch(ctx context.Context, name string, how types.PatchType, data []byte, options metav1.PatchOptions, sub ...string) (*v1alpha1.NodeAgent, error) {
	var in struct{ Status map[string]any }
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	var unknown []string
	for _, field := range o.lacks {
		if _, there := in.Status[field]; there {
			unknown = append(unknown, ".status."+field+": field not declared in schema")
		}
	}
	if len(unknown) > 0 {
		return nil, errors.New("failed to create typed patch object (/me; fairlead.dev/v1alpha1, Kind=NodeAgent): " + strings.Join(unknown, "\n"))
	}
	return o.NodeAgents.Patch(ctx, name, how, data, options, sub...)
}

// Agents may be newer than the CRDs. What the schema lacks is left out; all the rest is
// written, for without it the controller takes the agent for one that is not ready.
func TestReportWithAnEarlierCRD(t *testing.T) {
	t.Parallel()
	for name, lacks := range map[string][]string{"one field": {"conflicts"}, "two fields": {"kernelSettings", "conflicts"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &oldCRD{statustest.NewNodeAgents(), lacks}
			r := status.NewReport("me", server, func() types.UID { return "uid" }, func() {})
			if err := r.WriteNow(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.SetKernelSettings([]v1alpha1.KernelSetting{{Name: "net/ipv4/conf/eth0/arp_ignore", Former: "0", Value: "1"}})
			r.Set(v1alpha1.NodeAgentStatus{
				AnnouncedAddresses: 7,
				Conflicts:          []v1alpha1.AddressConflict{{Address: "192.0.2.7", Interface: "eth0", MAC: "02:00:00:00:00:01"}},
			}, status.Health{Ready: true, Reason: reason.Running})
			if err := r.WriteNow(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, _ := server.Peek("me")
			if got.Status.AnnouncedAddresses != 7 || len(got.Status.Conditions) != 1 || got.Status.Conditions[0].Status != metav1.ConditionTrue {
				t.Errorf("status %+v, want what the CRD knows", got.Status)
			}
			if want := 2 - len(lacks); len(got.Status.KernelSettings) != want {
				t.Errorf("kernel settings %v, want %d", got.Status.KernelSettings, want)
			}
		})
	}
}

// Any other refusal is an error.
func TestReportThatIsRefused(t *testing.T) {
	t.Parallel()
	server := statustest.NewNodeAgents()
	server.FailWith(func() error { return errors.New(".status.nothing: field not declared in schema") })
	r := status.NewReport("me", server, func() types.UID { return "uid" }, func() {})
	if err := r.WriteNow(t.Context()); err == nil {
		t.Error("no error")
	}
}
