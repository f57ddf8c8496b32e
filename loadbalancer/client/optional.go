// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/klog/v2"
)

// askAgain is how often the API server is asked for a kind that it did not have.
const askAgain = time.Minute

// Optional lists and watches a kind that the API server of an older installation does not
// have, or that this account may not read there: it is empty then, until the server has it.
// Once it was read, an error is one: what is known stays, and nothing is withdrawn because
// a server that starts does not know all its kinds yet.
type Optional[L runtime.Object] struct {
	from ListerWatcher[L]
	what string
	none func() L

	mu sync.Mutex
	// read says that the kind was there once, absent why it is not.
	read   bool  // guarded by mu
	absent error // guarded by mu
}

// NewOptional makes one of a typed client; what names the kind in the log, none makes an
// empty list.
func NewOptional[L runtime.Object](from ListerWatcher[L], what string, none func() L) *Optional[L] {
	return &Optional[L]{from: from, what: what, none: none}
}

// List is empty where the kind is absent.
func (o *Optional[L]) List(ctx context.Context, opts metav1.ListOptions) (L, error) {
	list, err := o.from.List(ctx, opts)
	if o.lacks(ctx, err) {
		return o.none(), nil
	}
	return list, err //nolint:wrapcheck // the informer's own
}

// Watch ends after a while where the kind is absent, so that it is listed again.
func (o *Optional[L]) Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	w, err := o.from.Watch(ctx, opts)
	// Who asks for the objects by a watch lists them after an error.
	streams := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	if o.lacks(ctx, err) && !streams {
		return newLater(ctx), nil
	}
	return w, err //nolint:wrapcheck // the informer's own
}

// lacks notes the outcome of a request, and says whether it means that there is none.
func (o *Optional[L]) lacks(ctx context.Context, err error) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
		o.read, o.absent = true, nil
		return false
	case o.read || !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return false
	}
	if o.absent == nil {
		klog.FromContext(ctx).Info("The API server has no such objects for this account; going on without them", "kind", o.what, "cause", err.Error())
	}
	o.absent = err
	return true
}

// Why the kind is absent, nil when it is not.
func (o *Optional[L]) Why() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.absent
}

// later is a watch that says after a while that it has to begin with a list again.
type later struct {
	events chan watch.Event
	stop   context.CancelFunc
}

func newLater(ctx context.Context) *later {
	ctx, stop := context.WithCancel(ctx)
	l := &later{make(chan watch.Event), stop}
	go func() {
		defer close(l.events)
		rest, cancel := context.WithTimeout(ctx, askAgain)
		defer cancel()
		<-rest.Done()
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case l.events <- watch.Event{Type: watch.Error, Object: &metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired, Message: "list again",
		}}:
		}
	}()
	return l
}

// Stop ends the watch.
func (l *later) Stop() { l.stop() }

// ResultChan has one event.
func (l *later) ResultChan() <-chan watch.Event { return l.events }
