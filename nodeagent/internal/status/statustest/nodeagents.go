// SPDX-License-Identifier: Apache-2.0

package statustest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// NodeAgents are the NodeAgents of a fake API server. It is safe for concurrent use.
type NodeAgents struct {
	mu     sync.Mutex
	objs   map[string]*v1alpha1.NodeAgent
	fail   func() error
	writes int
}

// NewNodeAgents makes a server without NodeAgents.
func NewNodeAgents() *NodeAgents { return &NodeAgents{objs: make(map[string]*v1alpha1.NodeAgent)} }

// FailWith makes every request ask f first; nil ends it.
func (n *NodeAgents) FailWith(f func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = f
}

// Delete removes an object.
func (n *NodeAgents) Delete(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.objs, name)
}

// Put stores an object.
func (n *NodeAgents) Put(o *v1alpha1.NodeAgent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.objs[o.Name] = o.DeepCopy()
}

// Peek returns an object without a request.
func (n *NodeAgents) Peek(name string) (*v1alpha1.NodeAgent, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o, ok := n.objs[name]
	return o.DeepCopy(), ok
}

// Writes counts the patches, failed ones included.
func (n *NodeAgents) Writes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.writes
}

// Get reads an object.
func (n *NodeAgents) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.NodeAgent, error) {
	n.mu.Lock()
	fail := n.fail
	n.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return nil, err
		}
	}
	if o, ok := n.Peek(name); ok {
		return o, nil
	}
	return nil, notFound(name)
}

func notFound(name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: v1alpha1.GroupName, Resource: "nodeagents"}, name)
}

// Patch takes an apply of the object, which makes it if need be, or of its status.
func (n *NodeAgents) Patch(_ context.Context, name string, _ types.PatchType, data []byte, options metav1.PatchOptions, sub ...string) (*v1alpha1.NodeAgent, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.writes++
	if n.fail != nil {
		if err := n.fail(); err != nil {
			return nil, err
		}
	}
	var in v1alpha1.NodeAgent
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	have, ok := n.objs[name]
	if len(sub) == 0 {
		if !ok {
			have = &v1alpha1.NodeAgent{}
			n.objs[name] = have
		}
		have.ObjectMeta = in.ObjectMeta
		return have.DeepCopy(), nil
	}
	if !ok {
		return nil, notFound(name)
	}
	// Kernel settings have a field manager of their own; no other field is owned by both.
	if strings.HasSuffix(options.FieldManager, "-kernel-settings") {
		have.Status.KernelSettings = in.Status.KernelSettings
	} else {
		in.Status.KernelSettings = have.Status.KernelSettings
		have.Status = in.Status
	}
	return have.DeepCopy(), nil
}
