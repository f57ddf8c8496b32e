// SPDX-License-Identifier: Apache-2.0

// Package image owns container images without a container runtime: it packs
// files into images, keeps them in a directory, writes and reads them as docker
// archives, serves them to containerd as a read-only registry, and runs the
// subset of Dockerfile instructions that Fairlead's own Dockerfile uses.
//
// It must not reach any registry. Package cluster and the fairlead-lab command
// call it.
package image
