// SPDX-License-Identifier: Apache-2.0

// Package command is the command line of kubectl-fairlead: flags, kubeconfig, output
// formats and exit codes. It owns no decision: packages explain, claimfile and metallb
// make them. Only `claims import` writes to the cluster. The main package calls it.
package command
