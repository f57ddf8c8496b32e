// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// look looks around; what it sees comes by looks. Only the first one is waited for: others
// may take seconds, in which endpoints change.
func (f *forwarder) look(ctx context.Context, now time.Time) {
	if f.looking {
		return
	}
	f.looked, f.looking = now, true
	look := func() {
		f.looks <- f.d.look(ctx)
		mark(f.wake)
	}
	if f.seen {
		f.spawn(look)
	} else {
		look()
	}
}

// judge finds out whether this node can forward, and should, by what the last look saw.
func (f *forwarder) judge(ctx context.Context, now time.Time) {
	against, message := f.verdict(ctx)
	switch {
	case against == "":
		f.doubts = 0
		if f.against != "" {
			klog.FromContext(ctx).Info("Forwarding by IPVS again", "former", f.against)
			// What the loop wanted is of another time.
			f.mu.Lock()
			f.want = wanted{}
			f.mu.Unlock()
		}
		f.against, f.message, f.giveUp = "", "", time.Time{}
	case f.against == against:
		f.message = message
	case f.programmed && f.doubts == 0:
		// Once may be somebody's restart.
		f.doubts = 1
	default:
		f.doubts = 0
		f.stop(ctx, now, against, message)
	}
}

// verdict is why this node does not forward, with a message.
func (f *forwarder) verdict(ctx context.Context) (against reason.Reason, message string) {
	if f.mode == dataPlaneKubeProxy {
		return reason.LeftToKubeProxy, "the agent's --data-plane=kube-proxy asks for it"
	}
	if f.plane == nil {
		p, err := f.d.open(ctx)
		if err != nil {
			if errors.Is(err, kernel.ErrNoIPVS) {
				return reason.KernelWithoutIPVS, noIPVS
			}
			return reason.KernelRefuses, err.Error()
		}
		f.plane = p
	}
	if f.around.Against != "" && f.mode == dataPlaneAuto {
		return f.around.Against, f.around.Message
	}
	return "", ""
}

// stop ends forwarding: at once where nothing was programmed, else when the controller had
// the time to have kube-proxy take it over.
func (f *forwarder) stop(ctx context.Context, now time.Time, why reason.Reason, message string) {
	if f.against == why {
		f.message = message
		return
	}
	klog.FromContext(ctx).Info("Leaving forwarding to kube-proxy", "reason", why, "cause", message)
	f.against, f.message, f.giveUp = why, message, now
	if f.programmed || f.inherits(ctx) {
		f.giveUp = now.Add(handBack)
	}
}

// inherits says whether an earlier run left anything that forwards.
func (f *forwarder) inherits(ctx context.Context) bool {
	left, err := f.d.left(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot look for what an earlier run left")
	}
	return left || err != nil
}

// giveAway removes what is programmed, or what an earlier run left.
func (f *forwarder) giveAway(ctx context.Context, now time.Time) {
	if err := f.remove(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot remove the data plane yet")
		f.giveUp = now.Add(handBack)
		return
	}
	f.giveUp = time.Time{}
}
