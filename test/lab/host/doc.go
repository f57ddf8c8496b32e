// SPDX-License-Identifier: Apache-2.0

// Package host owns one simulated machine of the lab: its namespaces, file
// system view, control groups, processes and network port.
//
// A host is a process tree below a PID 1 of its own (see [RunInit]), so that a
// power cut is one SIGKILL and leaves nothing behind: mounts and interfaces go
// with the namespaces that hold them. The package knows nothing about
// Kubernetes; package cluster says which processes a host runs. It must not
// change anything in the namespaces of the machine it runs on, except for
// control groups below fairlead-lab-<id>, which [RemoveCgroups] takes away.
package host
