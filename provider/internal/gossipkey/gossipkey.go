// SPDX-License-Identifier: Apache-2.0

// Package gossipkey makes the key that node agents encrypt their gossip with.
//
// It owns the creation of the Secret "fairlead-gossip" and nothing of it afterwards: a
// Secret that exists is never overwritten, because an administrator may have made it
// and agents may be using it. One that is deleted under a running controller comes back
// with the same keys, else agents that read it at different moments would stop hearing
// each other. It never reads another Secret.
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
	// Rand gives the key; nil means crypto/rand.
	Rand io.Reader
}

// Controller is made with New.
type Controller struct {
	opts     Options
	informer cache.SharedIndexInformer
	queue    *worker.Queue[string]
	// last is the data of the Secret when it was last seen, nil before; only the
	// worker touches it.
	last map[string][]byte
	// told is the last complaint about the Secret's content; only the worker touches it.
	told string
}

// New checks the options. The controller has its own informer over the one Secret:
//
//	gossipkey.New(gossipkey.Options{Client: kube, Namespace: podNamespace, Recorder: recorder})
func New(opts Options) (*Controller, error) {
	if opts.Client == nil || opts.Namespace == "" || opts.Recorder == nil {
		return nil, errors.New("gossip key controller: client, namespace or recorder is missing")
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
	c.queue.Run(ctx, 1, []cache.InformerSynced{c.informer.HasSynced}, c.sync)
	return nil
}

func (c *Controller) sync(ctx context.Context, _ string) (time.Duration, error) {
	obj, found, err := c.informer.GetStore().GetByKey(c.opts.Namespace + "/" + SecretName)
	if err != nil {
		return 0, fmt.Errorf("look up Secret: %w", err)
	}
	if secret, ok := obj.(*corev1.Secret); found && ok {
		c.check(ctx, secret)
		return 0, nil
	}
	return 0, c.create(ctx)
}

// check looks at the content of an existing Secret and complains once if agents will
// not be able to use it.
func (c *Controller) check(ctx context.Context, secret *corev1.Secret) {
	keys, err := ParseKeys(secret.Data[DataKey])
	if err == nil {
		c.last, c.told = secret.Data, ""
		klog.FromContext(ctx).V(2).Info("Gossip key is present", "secret", klog.KObj(secret), "keys", len(keys))
		return
	}
	if c.told == err.Error() {
		return
	}
	c.told = err.Error()
	klog.FromContext(ctx).Info("Gossip key is unusable", "secret", klog.KObj(secret), "cause", err.Error())
	c.opts.Recorder.Eventf(secret, corev1.EventTypeWarning, reason.NoGossipKey.String(),
		"node agents cannot use this Secret: %v; put base64 of %d random bytes into %q, or delete the Secret to get a new one",
		err, KeySize, DataKey)
}

func (c *Controller) create(ctx context.Context) error {
	data := c.last
	if data == nil {
		key := make([]byte, KeySize)
		if _, err := io.ReadFull(c.opts.Rand, key); err != nil {
			return fmt.Errorf("read random bytes: %w", err)
		}
		data = map[string][]byte{DataKey: []byte(base64.StdEncoding.EncodeToString(key) + "\n")}
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: SecretName, Namespace: c.opts.Namespace,
			Labels: map[string]string{"app.kubernetes.io/part-of": "fairlead"},
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
