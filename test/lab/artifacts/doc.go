// SPDX-License-Identifier: Apache-2.0

// Package artifacts owns the lab's third-party binaries: which ones there are,
// at which version, and how each is built from Go modules into a
// content-addressed cache outside the work tree.
//
// Versions and checksums are pinned by the files in modules/, one wrapper
// module per upstream project, built with -mod=readonly: a module whose content
// differs from its checksum does not build. The package must not download
// anything by other means than the go command. The fairlead-lab command calls
// it.
package artifacts
