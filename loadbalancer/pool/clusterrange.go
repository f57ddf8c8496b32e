// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// RangeKind says what a cluster gives addresses of a range to.
type RangeKind uint8

const (
	// PodRange holds the addresses of pods.
	PodRange RangeKind = iota
	// ServiceRange holds cluster IPs of Services.
	ServiceRange
)

// ClusterRange is a range that the cluster gives addresses of by itself. Comparable.
type ClusterRange struct {
	Interval Interval
	Kind     RangeKind
	// Created is the age of the object that the range comes from; 0 is older than any pool.
	Created loadbalancer.Since
	// Object names it in messages: node "worker".
	Object string
}

// RangeConflict is a pool that is older than a cluster range that overlaps it.
type RangeConflict struct {
	Range ClusterRange
	Pool  string
}
