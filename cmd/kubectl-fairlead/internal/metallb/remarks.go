// SPDX-License-Identifier: Apache-2.0

package metallb

import "slices"

// Remark is one thing that the reader of the result has to know.
type Remark struct {
	// Object it is about, such as "IPAddressPool metallb-system/first".
	Object string
	// Source says where the object stands.
	Source string
	// Fields of the object that it is about, by path.
	Fields []string
	// Whole: the object as a whole is not carried over; Fields are what it says.
	Whole bool
	// Why it is not carried over, or what happened.
	Why string
	// Remedy says what to do, empty for nothing.
	Remedy string
	// Lost: part of the configuration is not in the output.
	Lost bool
}

// remarks collects what is to be said of one object.
type remarks struct {
	object, source string
	all            *[]Remark
}

func (r *remarks) lost(fields []string, why, remedy string) {
	if len(fields) > 0 {
		r.add(Remark{Fields: fields, Why: why, Remedy: remedy, Lost: true})
	}
}

// lostObject says that an object as a whole is not carried over, with all its fields.
func (r *remarks) lostObject(fields []string, why, remedy string) {
	r.add(Remark{Fields: fields, Why: why, Remedy: remedy, Lost: true, Whole: true})
}

// unharmed reports whether read lost nothing.
func (r *remarks) unharmed(read func()) bool {
	n := len(*r.all)
	read()
	return !slices.ContainsFunc((*r.all)[n:], func(m Remark) bool { return m.Lost })
}

func (r *remarks) note(why, remedy string) { r.add(Remark{Why: why, Remedy: remedy}) }

func (r *remarks) add(m Remark) {
	m.Object, m.Source = r.object, r.source
	*r.all = append(*r.all, m)
}

// Lost reports whether part of the configuration is not in the output.
func (r Result) Lost() bool {
	return slices.ContainsFunc(r.Remarks, func(m Remark) bool { return m.Lost })
}
