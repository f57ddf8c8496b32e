// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// kernelSysctls are settings by name, as net/ipv4/vs/conntrack.
type kernelSysctls interface {
	// Sysctl returns kernel.ErrNotFound for one that this kernel does not have.
	Sysctl(name string) (string, error)
	SetSysctl(name, value string) error
}

// sysctl is a setting that forwarding by IPVS needs.
type sysctl struct {
	name, value string
	// needed says that nothing is forwarded without it.
	needed bool
	// pulsed says that the data plane itself has it otherwise for moments: once it is
	// recorded it is the data plane's to keep, and it is recorded before the first of them.
	pulsed bool
}

const sysctlPrefix = "net/ipv4/vs/"

// sysctlsFor are the settings that a plan needs (Documentation/networking/ipvs-sysctl.rst):
// conntrack, without which nftables takes what IPVS sends for invalid and cannot
// masquerade it; expire_nodest_conn off, so that held connections survive when somebody
// wipes the virtual servers; expire_quiescent_template, so that a client with affinity
// leaves a real server that drains; and for mh sloppy_tcp, so that a connection goes on
// when another node announces the address.
func sysctlsFor(f loadbalancer.Forwarding) []sysctl {
	out := []sysctl{
		{name: sysctlPrefix + "conntrack", value: "1", needed: true},
		{name: sysctlPrefix + "expire_nodest_conn", value: "0", pulsed: true},
		{name: sysctlPrefix + "expire_quiescent_template", value: "1"},
	}
	if slices.ContainsFunc(f.VirtualServers, func(v loadbalancer.VirtualServer) bool { return v.Scheduler == "mh" }) {
		out = append(out, sysctl{name: sysctlPrefix + "sloppy_tcp", value: "1"})
	}
	return out
}

// prepare makes the kernel's settings as forwarding needs them, each recorded before it is
// made. Ready says that they are, an error that they cannot be.
func (l *loop) prepare(ctx context.Context, f loadbalancer.Forwarding) (ready bool, err error) {
	recorded, known := l.a.report.KernelSettings()
	if !known || l.settings.restored {
		return false, nil
	}
	var change []sysctl
	record := slices.Clone(recorded)
	for _, s := range sysctlsFor(f) {
		known := slices.ContainsFunc(record, func(r v1alpha1.KernelSetting) bool { return r.Name == s.name })
		if s.pulsed && known {
			continue
		}
		have, err := l.a.d.kernel.Sysctl(s.name)
		switch {
		case err == nil && have == s.value && !s.pulsed:
			continue
		case err != nil && (s.needed || !errors.Is(err, kernel.ErrNotFound)):
			return false, fmt.Errorf("read a setting that IPVS needs: %w", err)
		case err != nil:
			continue
		}
		if have != s.value {
			change = append(change, s)
		}
		if !known {
			record = append(record, v1alpha1.KernelSetting{Name: s.name, Former: have, Value: s.value})
		}
	}
	if len(change) == 0 && len(record) == len(recorded) {
		return true, nil
	}
	slices.SortFunc(record, func(a, b v1alpha1.KernelSetting) int { return cmp.Compare(a.Name, b.Name) })
	if !l.a.report.SetKernelSettings(record) {
		return false, nil // The report wakes the loop when they are recorded.
	}
	return l.setSysctls(ctx, change)
}

func (l *loop) setSysctls(ctx context.Context, change []sysctl) (ready bool, err error) {
	for _, s := range change {
		if err := l.a.d.kernel.SetSysctl(s.name, s.value); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot make a setting that IPVS needs", "setting", s.name, "value", s.value)
			if s.needed {
				return false, fmt.Errorf("%s must be %s, and cannot be set (is the host's /proc/sys/net mounted where --sysctl-root says?): %w", s.name, s.value, err)
			}
			continue
		}
		klog.FromContext(ctx).Info("Made a setting that IPVS needs", "setting", s.name, "value", s.value)
		if l.prepared {
			l.a.metrics.Repaired(partSysctls)
		}
	}
	return true, nil
}

// isSysctl tells the settings of this file from those of links.
func isSysctl(r v1alpha1.KernelSetting) bool { return strings.HasPrefix(r.Name, sysctlPrefix) }

// restoreSysctls sets back what was recorded, unless somebody changed it since, and returns
// what it could not.
func (l *loop) restoreSysctls(ctx context.Context, recorded []v1alpha1.KernelSetting) []v1alpha1.KernelSetting {
	var left []v1alpha1.KernelSetting
	for _, r := range recorded {
		if !isSysctl(r) {
			continue
		}
		have, err := l.a.d.kernel.Sysctl(r.Name)
		if errors.Is(err, kernel.ErrNotFound) || err == nil && have != r.Value {
			continue
		}
		if err == nil {
			err = l.a.d.kernel.SetSysctl(r.Name, r.Former)
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot restore a setting", "setting", r.Name, "former", r.Former)
			left = append(left, r)
		}
	}
	return left
}
