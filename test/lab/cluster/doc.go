// SPDX-License-Identifier: Apache-2.0

// Package cluster owns a lab: which hosts it has, what runs on them, where its
// state lies, and how it is brought up, broken on purpose and taken down.
//
// The address plan and the component command lines are pure functions
// ([NewPlan], the functions in components.go); [Lab] applies them with package
// host. The binaries and images come from packages artifacts and image. The
// package must not reach the cluster other than with kubectl, and is called by
// the fairlead-lab command only.
package cluster
