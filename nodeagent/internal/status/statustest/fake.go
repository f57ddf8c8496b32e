// SPDX-License-Identifier: Apache-2.0

// Package statustest has stateful fakes of the API server's side of package status,
// with failures on demand. They refuse what the real server refuses as far as node
// agents can run into it: stale resource versions, empty status objects in an apply,
// objects that do not exist. Only tests use it.
package statustest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Claims are the IPClaims of a fake API server. It is safe for concurrent use.
type Claims struct {
	mu      sync.Mutex
	objs    map[string]*v1alpha1.IPClaim
	version int
	fail    func(verb, name string) error
	log     []string
	changed func()
}

// NewClaims makes a server without claims.
func NewClaims() *Claims {
	return &Claims{objs: make(map[string]*v1alpha1.IPClaim), changed: func() {}}
}

// OnChange calls f after every change, as a watch would.
func (c *Claims) OnChange(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = f
}

// FailWith makes every request ask f first; nil ends it.
func (c *Claims) FailWith(f func(verb, name string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = f
}

// Put creates or replaces a claim as the controller would.
func (c *Claims) Put(claim *v1alpha1.IPClaim) {
	c.mu.Lock()
	c.storeLocked(claim.DeepCopy())
	f := c.changed
	c.mu.Unlock()
	f()
}

func (c *Claims) storeLocked(claim *v1alpha1.IPClaim) {
	c.version++
	claim.ResourceVersion = strconv.Itoa(c.version)
	c.objs[claim.Name] = claim
}

// Delete removes a claim.
func (c *Claims) Delete(name string) {
	c.mu.Lock()
	delete(c.objs, name)
	f := c.changed
	c.mu.Unlock()
	f()
}

// Peek returns a claim without a request.
func (c *Claims) Peek(name string) (*v1alpha1.IPClaim, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	claim, ok := c.objs[name]
	return claim.DeepCopy(), ok
}

// List returns all claims without a request.
func (c *Claims) List() []*v1alpha1.IPClaim {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*v1alpha1.IPClaim, 0, len(c.objs))
	for _, claim := range c.objs {
		out = append(out, claim.DeepCopy())
	}
	return out
}

// TakeLog returns the requests since the last call, as "verb name".
func (c *Claims) TakeLog() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.log
	c.log = nil
	return out
}

func (c *Claims) enter(verb, name string) error {
	c.log = append(c.log, verb+" "+name)
	if c.fail != nil {
		return c.fail(verb, name)
	}
	return nil
}

func claimResource() schema.GroupResource {
	return schema.GroupResource{Group: v1alpha1.GroupName, Resource: "ipclaims"}
}

// Get reads a claim.
func (c *Claims) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.IPClaim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.enter("get", name); err != nil {
		return nil, err
	}
	claim, ok := c.objs[name]
	if !ok {
		return nil, apierrors.NewNotFound(claimResource(), name)
	}
	return claim.DeepCopy(), nil
}

// Patch takes an apply or a merge patch of the status.
func (c *Claims) Patch(_ context.Context, name string, pt types.PatchType, data []byte, _ metav1.PatchOptions, sub ...string) (*v1alpha1.IPClaim, error) {
	c.mu.Lock()
	out, f, err := c.patchLocked(name, pt, data, sub)
	c.mu.Unlock()
	if err == nil {
		f()
	}
	return out, err
}

func (c *Claims) patchLocked(name string, pt types.PatchType, data []byte, sub []string) (*v1alpha1.IPClaim, func(), error) {
	if err := c.enter("patch", name); err != nil {
		return nil, nil, err
	}
	claim, ok := c.objs[name]
	if !ok {
		return nil, nil, apierrors.NewNotFound(claimResource(), name)
	}
	var in struct {
		Metadata struct{ Name, ResourceVersion string }
		Status   map[string]json.RawMessage
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(sub) != 1 || sub[0] != "status" {
		return nil, nil, apierrors.NewBadRequest("only the status may be patched")
	}
	if v := in.Metadata.ResourceVersion; v != "" && v != claim.ResourceVersion {
		return nil, nil, apierrors.NewConflict(claimResource(), name, fmt.Errorf("resource version is %s, not %s", claim.ResourceVersion, v))
	}
	if pt == types.ApplyPatchType && len(in.Status) == 0 {
		return nil, nil, apierrors.NewInvalid(schema.GroupKind{Group: v1alpha1.GroupName, Kind: "IPClaim"}, name, nil)
	}
	claim = claim.DeepCopy()
	if raw, ok := in.Status["owner"]; ok {
		claim.Status.Owner = nil
		if err := json.Unmarshal(raw, &claim.Status.Owner); err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
	}
	c.storeLocked(claim)
	return claim.DeepCopy(), c.changed, nil
}
