// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Instruction is one line of a Dockerfile.
type Instruction struct {
	// Op is the upper-case keyword.
	Op   string
	Args string
	// Line is where the instruction starts, from 1.
	Line int
}

func (i *Instruction) errorf(format string, args ...any) error {
	return fmt.Errorf("dockerfile line %d: %s: %w", i.Line, i.Op, fmt.Errorf(format, args...))
}

// Stage is one FROM block.
type Stage struct {
	// Name is empty if the stage has no AS.
	Name string
	Base string
	// Globals are the ARG lines before the first FROM.
	Globals      []Instruction
	Instructions []Instruction
}

// ParseDockerfile reads the subset of Dockerfile instructions that can be run
// without a container runtime. Anything else is an error that names its line,
// so that an image never silently lacks something.
func ParseDockerfile(r io.Reader) ([]Stage, error) {
	all, err := scanInstructions(r)
	if err != nil {
		return nil, err
	}
	known := []string{"ARG", "FROM", "WORKDIR", "ENV", "COPY", "RUN", "USER", "ENTRYPOINT", "LABEL"}
	var (
		globals []Instruction
		stages  []Stage
	)
	for i := range all {
		in := all[i]
		switch {
		case !slices.Contains(known, in.Op):
			return nil, in.errorf("not supported; there are %s", strings.Join(known, ", "))
		case in.Op == "FROM":
			s, err := parseFrom(&in)
			if err != nil {
				return nil, err
			}
			s.Globals = globals
			stages = append(stages, s)
		case len(stages) > 0:
			last := &stages[len(stages)-1]
			last.Instructions = append(last.Instructions, in)
		case in.Op == "ARG":
			globals = append(globals, in)
		default:
			return nil, in.errorf("comes before FROM")
		}
	}
	if len(stages) == 0 {
		return nil, fmt.Errorf("dockerfile: no FROM in it")
	}
	return stages, nil
}

func parseFrom(in *Instruction) (Stage, error) {
	f := strings.Fields(in.Args)
	switch {
	case len(f) == 1:
		return Stage{Base: f[0]}, nil
	case len(f) == 3 && strings.EqualFold(f[1], "AS"):
		return Stage{Base: f[0], Name: f[2]}, nil
	default:
		return Stage{}, in.errorf("want FROM IMAGE [AS NAME], not %q", in.Args)
	}
}

// scanInstructions drops comments and joins continued lines.
func scanInstructions(r io.Reader) ([]Instruction, error) {
	var (
		out     []Instruction
		pending strings.Builder
		start   int
	)
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if strings.HasPrefix(line, "#") || (line == "" && pending.Len() == 0) {
			continue
		}
		if pending.Len() == 0 {
			start = n
		}
		if cont, ok := strings.CutSuffix(line, `\`); ok {
			pending.WriteString(cont + " ")
			continue
		}
		pending.WriteString(line)
		op, args, _ := strings.Cut(pending.String(), " ")
		out = append(out, Instruction{Op: strings.ToUpper(op), Args: strings.TrimSpace(args), Line: start})
		pending.Reset()
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("dockerfile: %w", err)
	}
	if pending.Len() > 0 {
		return nil, fmt.Errorf("dockerfile line %d: the last line is continued", start)
	}
	return out, nil
}

// scope is the ARG and ENV variables of a stage.
type scope struct {
	args, env map[string]string
	globals   map[string]string
}

func newScope(s *Stage) *scope {
	sc := &scope{args: map[string]string{}, env: map[string]string{}, globals: map[string]string{}}
	for i := range s.Globals {
		name, value, _ := strings.Cut(s.Globals[i].Args, "=")
		sc.globals[name] = value
	}
	return sc
}

// arg declares a variable; without a value of its own it takes the global one.
func (s *scope) arg(args string) {
	name, value, ok := strings.Cut(args, "=")
	if !ok {
		value = s.globals[name]
	}
	s.args[name] = s.expand(unquote(value))
}

func (s *scope) lookup(name string) string {
	if v, ok := s.env[name]; ok {
		return v
	}
	return s.args[name]
}

// expand replaces $NAME and ${NAME}; other forms of the shell are not known.
func (s *scope) expand(text string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(text, "$")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		name, rest := after, ""
		if strings.HasPrefix(after, "{") {
			if name, rest, ok = strings.Cut(after[1:], "}"); !ok {
				b.WriteString("$" + after)
				return b.String()
			}
		} else {
			end := strings.IndexFunc(after, func(r rune) bool {
				return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
			})
			if end >= 0 {
				name, rest = after[:end], after[end:]
			}
		}
		b.WriteString(s.lookup(name))
		text = rest
	}
}

// pairs reads NAME=VALUE words, values in double quotes or bare.
func pairs(in *Instruction) (map[string]string, error) {
	out := map[string]string{}
	for _, w := range splitQuoted(in.Args) {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, in.errorf("want NAME=VALUE, not %q", w)
		}
		out[name] = unquote(value)
	}
	return out, nil
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// splitQuoted splits at blanks outside of double quotes.
func splitQuoted(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t')
	})
}

func execForm(in *Instruction) ([]string, error) {
	var out []string
	if err := json.Unmarshal([]byte(in.Args), &out); err != nil {
		return nil, in.errorf(`want the exec form ["PROGRAM", "ARG"], not %q`, in.Args)
	}
	return out, nil
}
