// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// fields is one map of the input. Every key has to be asked for; those that were not are
// named by [fields.finish].
type fields struct {
	// at is the map's path for remarks, such as spec or address-pools[0]; empty at the top.
	at   string
	m    map[string]any
	left map[string]bool
	r    *remarks
}

func newFields(at string, m map[string]any, r *remarks) *fields {
	f := &fields{at: at, m: m, left: make(map[string]bool, len(m)), r: r}
	for k := range m {
		f.left[k] = true
	}
	return f
}

func join(at, key string) string {
	if strings.ContainsAny(key, "./[\"") && !strings.HasSuffix(key, "]") {
		return at + "[" + strconv.Quote(key) + "]"
	}
	switch {
	case at == "":
		return key
	case strings.HasSuffix(at, ":"):
		return at + " " + key
	}
	return at + "." + key
}

// take returns a key's value; false for one that is absent or null.
func (f *fields) take(key string) (any, bool) {
	delete(f.left, key)
	v := f.m[key]
	return v, v != nil
}

func (f *fields) misfit(key string, v any, want string) {
	f.r.lost(leaves(join(f.at, key), v), "is not "+want, "correct it in the input")
}

func (f *fields) text(key string) string {
	v, ok := f.take(key)
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		f.misfit(key, v, "a text")
	}
	return s
}

// flag returns nil when the key is absent.
func (f *fields) flag(key string) *bool {
	v, ok := f.take(key)
	if !ok {
		return nil
	}
	b, ok := v.(bool)
	if !ok {
		f.misfit(key, v, "true or false")
		return nil
	}
	return &b
}

func (f *fields) number(key string) int {
	v, ok := f.take(key)
	if !ok {
		return 0
	}
	n, ok := v.(int64)
	if !ok || n < 0 || n > 1<<31-1 {
		f.misfit(key, v, "a whole number")
		return 0
	}
	return int(n)
}

func (f *fields) list(key string) []any {
	v, ok := f.take(key)
	if !ok {
		return nil
	}
	l, ok := v.([]any)
	if !ok {
		f.misfit(key, v, "a list")
	}
	return l
}

// texts returns a list of texts without those that repeat an earlier one.
func (f *fields) texts(key string) []string {
	var out []string
	for i, v := range f.list(key) {
		s, ok := v.(string)
		if !ok {
			f.misfit(index(key, i), v, "a text")
			continue
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func index(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }

// textMap returns a map of texts, such as labels.
func (f *fields) textMap(key string) map[string]string {
	sub := f.sub(key)
	if sub == nil {
		return nil
	}
	out := make(map[string]string)
	for _, k := range slices.Sorted(maps.Keys(sub.m)) {
		if v, _ := sub.take(k); v != nil {
			s, ok := v.(string)
			if !ok {
				sub.misfit(k, v, "a text")
				continue
			}
			out[k] = s
		}
	}
	return out
}

// sub returns the map under a key, nil when there is none.
func (f *fields) sub(key string) *fields {
	v, ok := f.take(key)
	if !ok {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		f.misfit(key, v, "a map")
		return nil
	}
	return newFields(join(f.at, key), m, f.r)
}

// subs returns the maps of the list under a key.
func (f *fields) subs(key string) []*fields {
	var out []*fields
	for i, v := range f.list(key) {
		m, ok := v.(map[string]any)
		if !ok {
			f.misfit(index(key, i), v, "a map")
			continue
		}
		out = append(out, newFields(join(f.at, index(key, i)), m, f.r))
	}
	return out
}

// selectors reads label selectors. One that cannot be understood in full is left out as
// a whole and reported.
func (f *fields) selectors(key string) []metav1.LabelSelector {
	var out []metav1.LabelSelector
	for i, v := range f.list(key) {
		at := index(key, i)
		sel, err := selector(v)
		if err != nil {
			f.r.lost(leaves(join(f.at, at), v), fmt.Sprintf("is not a label selector (%v)", err), "correct it in the input")
			continue
		}
		out = append(out, sel)
	}
	return out
}

func selector(v any) (metav1.LabelSelector, error) {
	var sel metav1.LabelSelector
	data, err := json.Marshal(v)
	if err != nil {
		return sel, err
	}
	strict, err := kjson.UnmarshalStrict(data, &sel)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	if err != nil {
		return sel, err
	}
	_, err = metav1.LabelSelectorAsSelector(&sel)
	return sel, err
}

// part names every leaf under a key as a tie to the input's surroundings, which is no
// loss of configuration.
func (f *fields) part(key, why, remedy string) {
	if v, ok := f.take(key); ok {
		f.r.add(Remark{Fields: leaves(join(f.at, key), v), Why: why, Remedy: remedy})
	}
}

// ignore takes keys that say nothing about the configuration.
func (f *fields) ignore(keys ...string) {
	for _, k := range keys {
		delete(f.left, k)
	}
}

// finish names what nobody asked for.
func (f *fields) finish() {
	var unknown []string
	for _, k := range slices.Sorted(maps.Keys(f.left)) {
		unknown = append(unknown, leaves(join(f.at, k), f.m[k])...)
	}
	if len(unknown) > 0 {
		f.r.lost(unknown, "is no field that this version knows", "check its spelling; if MetalLB reads it, look for its meaning in MetalLB's documents")
	}
}

// leaves returns the paths of a value's leaves. Empty maps and lists are leaves, null
// is none.
func leaves(at string, v any) []string {
	var out []string
	switch v := v.(type) {
	case nil:
	case map[string]any:
		if len(v) == 0 {
			return []string{at}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, leaves(join(at, k), v[k])...)
		}
	case []any:
		if len(v) == 0 {
			return []string{at}
		}
		for i, e := range v {
			out = append(out, leaves(index(at, i), e)...)
		}
	default:
		out = append(out, at)
	}
	return out
}
