// SPDX-License-Identifier: Apache-2.0

// Package metallb turns a MetalLB configuration into Fairlead's objects. It is pure:
// objects in, objects and remarks out; it asks no server and knows no clock.
//
// It reads the metallb.io kinds, the ConfigMap of MetalLB before 0.13, and Services for
// the addresses in their status. Nothing is lost silently: each field is either carried
// over or named in a remark. That is how the code is built ([fields] names whatever
// nobody asked for), not something that each kind has to remember. The plugin's command
// `migrate metallb` calls it.
package metallb
