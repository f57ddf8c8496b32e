// SPDX-License-Identifier: Apache-2.0

// Package worker is the loop that the provider's controllers have in common: a queue of
// comparable items, workers that bring one item forward each, pauses that grow while an
// item fails.
//
// It owns the queue and its goroutines and knows nothing of what the items mean. A
// controller makes one [Queue], marks items from its informers' handlers and gives its
// own step to [Queue.Run].
package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

const (
	// minRetryDelay and maxRetryDelay bound the pause before an item that failed is
	// tried again; it doubles with each failure in a row.
	minRetryDelay = 50 * time.Millisecond
	maxRetryDelay = 30 * time.Second
)

// ErrLost is for steps that lost a write to another writer and have only their own word
// for it; an API server's 409 needs no such wrapping.
var ErrLost = errors.New("another writer was faster")

// Step brings one item forward. A positive duration has the item looked at again after
// it, an error soon, with growing pauses.
type Step[T comparable] func(ctx context.Context, item T) (time.Duration, error)

// Queue holds items that need a look, each once. It is safe for concurrent use.
type Queue[T comparable] struct {
	items workqueue.TypedRateLimitingInterface[T]
}

// New makes an empty queue; its metrics carry the name.
func New[T comparable](name string) *Queue[T] {
	return &Queue[T]{workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[T](minRetryDelay, maxRetryDelay),
		workqueue.TypedRateLimitingQueueConfig[T]{Name: name})}
}

// Add marks an item. It does not block.
func (q *Queue[T]) Add(item T) { q.items.Add(item) }

// AddAfter marks an item after a while; of several calls the earliest time counts. It
// does not block.
func (q *Queue[T]) AddAfter(item T, delay time.Duration) { q.items.AddAfter(item, delay) }

// Retry marks an item that failed outside of its step, with the pause that an error of
// the step would bring. It does not block.
func (q *Queue[T]) Retry(item T) { q.items.AddRateLimited(item) }

// ShutDown ends a queue that is not run.
func (q *Queue[T]) ShutDown() { q.items.ShutDown() }

// Run waits for the caches, then has that many workers take steps until ctx is done. No
// item is in two steps at a time. A queue runs once.
func (q *Queue[T]) Run(ctx context.Context, workers int, synced []cache.InformerSynced, step Step[T]) {
	defer q.items.ShutDown()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return // ctx is done: a shutdown before the caches were there is no fault
	}
	klog.FromContext(ctx).Info("Controller started")
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for q.next(ctx, step) {
			}
		})
	}
	<-ctx.Done()
	q.items.ShutDown()
	wg.Wait()
}

func (q *Queue[T]) next(ctx context.Context, step Step[T]) bool {
	item, shutdown := q.items.Get()
	if shutdown {
		return false
	}
	defer q.items.Done(item)
	again, err := step(ctx, item)
	if err != nil {
		logger := klog.FromContext(ctx)
		switch {
		case apierrors.IsConflict(err), errors.Is(err, ErrLost):
			// As a rule another writer was faster and its event is under way. But an API
			// server may say so without one, so that nothing else would bring us back.
			logger.V(2).Info("Lost a write to another writer, will look again", "item", item, "err", err)
		case ctx.Err() == nil:
			logger.Error(err, "Sync failed, will retry", "item", item)
		}
		q.items.AddRateLimited(item)
		return true
	}
	q.items.Forget(item)
	if again > 0 {
		q.items.AddAfter(item, again)
	}
	return true
}
