// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// NodeAgents reads and patches NodeAgents; client.NodeAgents does.
type NodeAgents = patcher[*v1alpha1.NodeAgent]

const (
	// reportInterval is the least time between two writes.
	reportInterval = time.Second
	// maxReportBackoff is the longest time between two attempts while the server is away.
	maxReportBackoff = 30 * time.Second
)

// Health is the Ready condition to report.
type Health struct {
	Ready   bool
	Reason  reason.Reason
	Message string
}

// Report keeps the NodeAgent object of this node.
type Report struct {
	node    string
	agents  NodeAgents
	nodeUID func() types.UID
	notify  func()
	wake    chan struct{}

	mu     sync.Mutex
	want   v1alpha1.NodeAgentStatus // guarded by mu
	set    bool                     // guarded by mu
	health Health                   // guarded by mu
	// settings are the kernel's that this run or an earlier one changed, or is about to
	// change; loaded says that those of an earlier one are among them. Recorded are those
	// that the API server has.
	settings, recorded []v1alpha1.KernelSetting // guarded by mu
	loaded             bool                     // guarded by mu
	// former is what an earlier run told of the data plane, which it left in the kernel, and
	// formerBGP of the sessions, whose routes the peers may have kept.
	former    v1alpha1.DataPlaneStatus    // guarded by mu
	formerBGP []v1alpha1.BGPSessionStatus // guarded by mu
	// unknown are the fields that the API server was found not to know.
	unknown map[string]struct{} // guarded by mu
}

// NewReport makes a writer for a node. nodeUID is the Node's UID, empty while unknown;
// the object is owned by its Node and goes with it. notify is called when kernel settings
// were recorded; it must not block.
func NewReport(node string, agents NodeAgents, nodeUID func() types.UID, notify func()) *Report {
	return &Report{node: node, agents: agents, nodeUID: nodeUID, notify: notify, wake: make(chan struct{}, 1), unknown: make(map[string]struct{})}
}

// Set says what the object should hold; conditions in s are ignored in favour of h, and
// kernel settings in favour of those of [Report.SetKernelSettings]. While s does not say who
// forwards, what an earlier run told stays, and so it does of BGP while that is nil. It does
// not block.
func (r *Report) Set(s v1alpha1.NodeAgentStatus, h Health) {
	s.Conditions, s.KernelSettings = nil, nil
	r.mu.Lock()
	same := r.set && reflect.DeepEqual(s, r.want) && h == r.health
	r.want, r.health, r.set = s, h, true
	r.mu.Unlock()
	if same {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// SetHealth changes the Ready condition only, for [Report.WriteNow].
func (r *Report) SetHealth(h Health) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.health = h
}

// KernelSettings are those of the kernel that were changed, by an earlier run of the agent
// too; false while the object of that run was not read yet. Nothing is written before.
func (r *Report) KernelSettings() ([]v1alpha1.KernelSetting, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.settings), r.loaded
}

// SetKernelSettings replaces them, once they were read, and says whether the API server
// has this list, or cannot have one because its CRD is of an earlier version: a change that
// is not recorded yet could not be undone after a crash.
func (r *Report) SetKernelSettings(list []v1alpha1.KernelSetting) (recorded bool) {
	r.mu.Lock()
	same := slices.Equal(list, r.settings)
	r.settings = slices.Clone(list)
	_, unknown := r.unknown["kernelSettings"]
	recorded = unknown || slices.Equal(list, r.recorded)
	r.mu.Unlock()
	if !same {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return recorded
}

// record notes what the API server has now.
func (r *Report) record(list []v1alpha1.KernelSetting) {
	r.mu.Lock()
	same := slices.Equal(list, r.recorded)
	r.recorded = list
	r.mu.Unlock()
	if !same {
		r.notify()
	}
}

// load reads what an earlier run recorded, once.
func (r *Report) load(ctx context.Context) error {
	if _, loaded := r.KernelSettings(); loaded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	obj, err := r.agents.Get(ctx, r.node, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		obj = &v1alpha1.NodeAgent{}
	case apierrors.IsForbidden(err):
		// The permissions are those of an earlier version, whose agent recorded nothing.
		klog.FromContext(ctx).Error(err, "Cannot read the own NodeAgent; kernel settings that an earlier run changed stay")
		obj = &v1alpha1.NodeAgent{}
	case err != nil:
		return fmt.Errorf("read NodeAgent: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settings, r.recorded, r.loaded = obj.Status.KernelSettings, obj.Status.KernelSettings, true
	r.former, r.formerBGP = obj.Status.DataPlane, obj.Status.BGP
	return nil
}

// Run writes until ctx ends.
func (r *Report) Run(ctx context.Context) error {
	backoff := reportInterval
	var written *v1alpha1.NodeAgentStatus
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		var err error
		written, err = r.write(ctx, written)
		pause := reportInterval
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("Cannot write the NodeAgent yet", "cause", err.Error())
			pause, backoff = backoff, min(2*backoff, maxReportBackoff)
			select {
			case r.wake <- struct{}{}:
			default:
			}
		} else {
			backoff = reportInterval
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// WriteNow writes at once if anything changed: for the end of the process.
func (r *Report) WriteNow(ctx context.Context) error {
	_, err := r.write(ctx, nil)
	return err
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// write applies the wanted status unless it was the last one written, and returns what
// is written now.
func (r *Report) write(ctx context.Context, written *v1alpha1.NodeAgentStatus) (*v1alpha1.NodeAgentStatus, error) {
	if err := r.load(ctx); err != nil {
		return written, err
	}
	r.mu.Lock()
	s, h := *r.want.DeepCopy(), r.health
	settings := slices.Clone(r.settings)
	if s.DataPlane.Forwarding == "" {
		r.former.DeepCopyInto(&s.DataPlane)
	} else {
		r.former = v1alpha1.DataPlaneStatus{}
	}
	if s.BGP == nil {
		s.BGP = slices.Clone(r.formerBGP)
	} else {
		r.formerBGP = nil
	}
	r.mu.Unlock()
	if written != nil {
		s.Conditions = append(s.Conditions, written.Conditions...)
	}
	state := metav1.ConditionFalse
	if h.Ready {
		state = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: state, Reason: h.Reason.String(), Message: h.Message,
	})
	if written != nil && reflect.DeepEqual(s, *written) {
		return written, r.writeSettings(ctx, settings, false)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if written == nil {
		if err := r.applyObject(ctx); err != nil {
			return nil, err
		}
	}
	err := r.applyStatus(ctx, s)
	if err == nil {
		// An object that was made anew has none.
		err = r.writeSettings(ctx, settings, written == nil)
	}
	if apierrors.IsNotFound(err) {
		// Somebody deleted the object: begin again.
		return nil, err
	}
	if err != nil {
		return written, err
	}
	return &s, nil
}

// settingsManager owns status.kernelSettings alone: an agent of an earlier version, which
// does not know the field, would drop it with its first apply, and the way back with it.
const settingsManager = FieldManager + "-kernel-settings"

// writeSettings writes the kernel settings if the API server has others, or anyway.
func (r *Report) writeSettings(ctx context.Context, settings []v1alpha1.KernelSetting, anyway bool) error {
	r.mu.Lock()
	same := slices.Equal(settings, r.recorded)
	r.mu.Unlock()
	if same && (!anyway || len(settings) == 0) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	fields, err := fieldsOf(v1alpha1.NodeAgentStatus{KernelSettings: settings})
	if err != nil {
		return err
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return name != "kernelSettings" })
	if err := r.applyFields(ctx, fields, settingsManager); err != nil {
		return err
	}
	r.record(settings)
	return nil
}

// applyObject creates the object, or makes sure that its Node owns it.
func (r *Report) applyObject(ctx context.Context) error {
	metadata := map[string]any{"name": r.node}
	if uid := r.nodeUID(); uid != "" {
		metadata["ownerReferences"] = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.node, UID: uid}}
	}
	if err := r.patch(ctx, map[string]any{"metadata": metadata}, FieldManager); err != nil {
		return fmt.Errorf("apply NodeAgent: %w", err)
	}
	return nil
}

// applyStatus writes a status. Where the CRD is of an earlier version, the API server
// refuses all of a status for a field that it does not know; the rest is written then.
func (r *Report) applyStatus(ctx context.Context, s v1alpha1.NodeAgentStatus) error {
	fields, err := fieldsOf(s)
	if err != nil {
		return err
	}
	return r.applyFields(ctx, fields, FieldManager)
}

func (r *Report) applyFields(ctx context.Context, fields map[string]json.RawMessage, manager string) error {
	for {
		err := r.patch(ctx, map[string]any{"metadata": map[string]any{"name": r.node}, "status": fields}, manager, "status")
		if err == nil {
			return nil
		}
		if !r.dropUnknown(ctx, fields, err) {
			return fmt.Errorf("apply NodeAgent status: %w", err)
		}
	}
}

func fieldsOf(s v1alpha1.NodeAgentStatus) (map[string]json.RawMessage, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return fields, nil
}

// undeclared is how the API server tells of a field of a server-side apply that the schema
// does not have. It is a plain error of the server without a reason.
var undeclared = regexp.MustCompile(`\.status\.(\w+): field not declared in schema`)

// dropUnknown takes the fields out for which the API server refused a status; false when
// there is none.
func (r *Report) dropUnknown(ctx context.Context, fields map[string]json.RawMessage, refused error) bool {
	dropped := false
	for _, m := range undeclared.FindAllStringSubmatch(refused.Error(), -1) {
		name := m[1]
		if _, there := fields[name]; !there {
			continue
		}
		delete(fields, name)
		dropped = true
		r.mu.Lock()
		_, told := r.unknown[name]
		r.unknown[name] = struct{}{}
		r.mu.Unlock()
		if !told {
			klog.FromContext(ctx).Error(refused, "The CRD of NodeAgents is of an earlier version; its status goes without a field until the CRDs are applied", "field", name)
		}
	}
	return dropped
}

func (r *Report) patch(ctx context.Context, obj map[string]any, manager string, sub ...string) error {
	obj["apiVersion"], obj["kind"] = v1alpha1.SchemeGroupVersion().String(), "NodeAgent"
	data, err := json.Marshal(obj)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	options := applyOptions()
	options.FieldManager = manager
	_, err = r.agents.Patch(ctx, r.node, types.ApplyPatchType, data, options, sub...)
	return err
}
