// SPDX-License-Identifier: Apache-2.0

// Package gossipkey makes the key that node agents encrypt their gossip with.
//
// It owns the creation of the Secret "fairlead-gossip", and changes one that exists only
// when asked to, by the annotation [AnnotationRotate]: an administrator may have made it
// and agents may be using it. Then it replaces the key step by step, so that agents which
// have read the Secret at different moments never stop hearing each other. For the same
// reason one that is deleted under a running controller comes back with the same keys. It
// never reads another Secret.
//
// The provider constructs one [Controller] per process; the leader runs it.
package gossipkey

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

const (
	// SecretName is the name of the Secret in the controller's namespace.
	SecretName = "fairlead-gossip"
	// DataKey is the Secret's only key: base64 keys, one per line, the primary first.
	DataKey = "keys"
	// KeySize in bytes: AES-256.
	KeySize = 32
)

// Options are the controller's inputs. Rand is optional, all else is required.
type Options struct {
	Client    kubernetes.Interface
	Namespace string
	// Recorder emits events on the Secret.
	Recorder record.EventRecorder
	// Agents (NodeAgents) and Nodes say who has to have read a new key. Whoever made them
	// runs them.
	Agents, Nodes Informer
	// Rand gives the key; nil means crypto/rand.
	Rand io.Reader
}

// Informer is what the controller needs of an informer that it does not own.
type Informer interface {
	GetStore() cache.Store
	HasSynced() bool
}

// Controller is made with New.
type Controller struct {
	opts     Options
	informer cache.SharedIndexInformer
	queue    *worker.Queue[string]

	// Only the worker touches what follows.

	// last is the Secret when it was last seen with usable keys, nil before.
	last *corev1.Secret
	// told is the last complaint about the Secret's content.
	told string
	// since is how long a step of a rotation has been waited with, zero while none is;
	// complained says that an event told.
	since      time.Time
	complained bool
	// refused is the rotation that an event said cannot be.
	refused string
}

// New checks the options. The controller has its own informer over the one Secret:
//
//	gossipkey.New(gossipkey.Options{Client: kube, Namespace: podNamespace, Recorder: recorder, Agents: agents, Nodes: nodes})
func New(opts Options) (*Controller, error) {
	if opts.Client == nil || opts.Namespace == "" || opts.Recorder == nil || opts.Agents == nil || opts.Nodes == nil {
		return nil, errors.New("gossip key controller: client, namespace, recorder or informer is missing")
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	c := &Controller{
		opts: opts,
		informer: coreinformers.NewFilteredSecretInformer(opts.Client, opts.Namespace, 0, cache.Indexers{},
			func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, SecretName).String()
			}),
		queue: worker.New[string]("gossip-key"),
	}
	mark := func(any) { c.queue.Add(SecretName) }
	if _, err := c.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: mark, UpdateFunc: func(any, any) { mark(nil) }, DeleteFunc: mark,
	}); err != nil {
		return nil, fmt.Errorf("gossip key controller: add event handler: %w", err)
	}
	return c, nil
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("gossip-key"))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.informer.RunWithContext(ctx) })
	c.queue.Add(SecretName) // no event tells that it is missing
	c.queue.Run(ctx, 1, []cache.InformerSynced{c.informer.HasSynced, c.opts.Agents.HasSynced, c.opts.Nodes.HasSynced}, c.sync)
	return nil
}

func (c *Controller) sync(ctx context.Context, _ string) (time.Duration, error) {
	obj, found, err := c.informer.GetStore().GetByKey(c.opts.Namespace + "/" + SecretName)
	if err != nil {
		return 0, fmt.Errorf("look up Secret: %w", err)
	}
	if secret, ok := obj.(*corev1.Secret); found && ok {
		if keys, ok := c.check(ctx, secret); ok {
			return c.rotate(ctx, secret, keys)
		}
		return 0, nil
	}
	return 0, c.create(ctx)
}

// check reads the keys of an existing Secret and complains once if agents will not be
// able to use it.
func (c *Controller) check(ctx context.Context, secret *corev1.Secret) ([][]byte, bool) {
	keys, err := ParseKeys(secret.Data[DataKey])
	if err == nil {
		c.last, c.told = secret, ""
		klog.FromContext(ctx).V(2).Info("Gossip key is present", "secret", klog.KObj(secret), "keys", len(keys))
		return keys, true
	}
	if c.told == err.Error() {
		return nil, false
	}
	c.told = err.Error()
	klog.FromContext(ctx).Info("Gossip key is unusable", "secret", klog.KObj(secret), "cause", err.Error())
	c.opts.Recorder.Eventf(secret, corev1.EventTypeWarning, reason.NoGossipKey.String(),
		"node agents cannot use this Secret: %v; put base64 of %d random bytes into %q, or delete the Secret to get a new one",
		err, KeySize, DataKey)
	return nil, false
}

func (c *Controller) create(ctx context.Context) error {
	var data map[string][]byte
	var annotations map[string]string
	if c.last != nil {
		data, annotations = c.last.Data, rotation(c.last)
	} else {
		key := make([]byte, KeySize)
		if _, err := io.ReadFull(c.opts.Rand, key); err != nil {
			return fmt.Errorf("read random bytes: %w", err)
		}
		data = map[string][]byte{DataKey: []byte(base64.StdEncoding.EncodeToString(key) + "\n")}
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: SecretName, Namespace: c.opts.Namespace,
			Labels:      map[string]string{"app.kubernetes.io/part-of": "fairlead"},
			Annotations: annotations,
		},
		Type: corev1.SecretTypeOpaque,
		Data: data,
	}
	_, err := c.opts.Client.CoreV1().Secrets(c.opts.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // somebody else's is as good: its event is under way
	}
	if err != nil {
		return fmt.Errorf("create Secret %s: %w", SecretName, err)
	}
	klog.FromContext(ctx).Info("Created gossip key", "secret", klog.KObj(secret), "restored", c.last != nil)
	return nil
}

// ParseKeys reads the Secret's value: one base64 key of [KeySize] bytes per line, the
// primary first; empty lines are skipped. The error never holds key material.
func ParseKeys(value []byte) ([][]byte, error) {
	var keys [][]byte
	for i, line := range strings.Split(string(value), "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, fmt.Errorf("line %d of %q is not base64", i+1, DataKey)
		}
		if len(key) != KeySize {
			return nil, fmt.Errorf("line %d of %q has %d bytes, want %d", i+1, DataKey, len(key), KeySize)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%q holds no key", DataKey)
	}
	return keys, nil
}
