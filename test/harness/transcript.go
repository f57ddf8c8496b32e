// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Transcript prints numbered steps for a reader: what was typed, what it printed, what
// was expected and what was observed, and counts the ones that did not hold. It is used
// from one goroutine.
type Transcript struct {
	w      io.Writer
	start  time.Time
	steps  int
	failed []string
}

// NewTranscript starts a transcript; elapsed times count from now.
func NewTranscript(w io.Writer, now time.Time) *Transcript {
	return &Transcript{w: w, start: now}
}

// Observation is the outcome of one step.
type Observation struct {
	// Expected and Observed are shown side by side.
	Expected string
	Observed string
	// Held says whether they agree.
	Held bool
}

// Heading starts a chapter.
func (t *Transcript) Heading(format string, args ...any) {
	title := fmt.Sprintf(format, args...)
	t.printf("\n== %s %s\n", title, strings.Repeat("=", max(3, 92-len(title))))
}

// Note prints a remark.
func (t *Transcript) Note(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		t.printf("   # %s\n", strings.TrimRight(line, "\n"))
	}
}

// Command prints what a person would type.
func (t *Transcript) Command(prompt, format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	for i, line := range strings.Split(text, "\n") {
		if i == 0 {
			t.printf("   %s$ %s\n", prompt, line)
			continue
		}
		t.printf("   > %s\n", line)
	}
}

// Output prints what a command answered, indented, at most limit lines of it (0: all).
func (t *Transcript) Output(text string, limit int) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return
	}
	for i, line := range lines {
		if limit > 0 && i == limit {
			t.printf("   | … %d more lines\n", len(lines)-limit)
			return
		}
		t.printf("   | %s\n", line)
	}
}

// Step runs one step and prints its verdict. An error is an observation that did not
// hold; the transcript goes on.
func (t *Transcript) Step(ctx context.Context, title string, run func(context.Context) (Observation, error)) bool {
	t.steps++
	began := time.Now()
	t.printf("\n%2d. %s\n", t.steps, title)
	o, err := run(ctx)
	if err != nil {
		o.Held = false
		if o.Observed != "" {
			o.Observed += "; "
		}
		o.Observed += err.Error()
	}
	verdict := "ok  "
	if !o.Held {
		verdict = "FAIL"
		t.failed = append(t.failed, fmt.Sprintf("%d. %s", t.steps, title))
	}
	if o.Expected == "" {
		o.Expected = "no error"
	}
	t.sideBySide(o)
	now := time.Now()
	t.printf("   %s  %.1f s (total %.0f s)\n", verdict, now.Sub(began).Seconds(), now.Sub(t.start).Seconds())
	return o.Held
}

// column is the width of the left half of an expected/observed pair.
const column = 52

func (t *Transcript) sideBySide(o Observation) {
	left, right := wrap(o.Expected), wrap(o.Observed)
	for i := range max(len(left), len(right)) {
		l, r, lead, mid := "", "", "         ", "         "
		if i == 0 {
			lead, mid = "expected ", "observed "
		}
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		line := fmt.Sprintf("   %s%-*s │ %s%s", lead, column, l, mid, r)
		t.printf("%s\n", strings.TrimRight(line, " "))
	}
}

// wrap breaks text into lines of at most column characters, at spaces where it can.
func wrap(text string) []string {
	var out []string
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		current := ""
		for word := range strings.FieldsSeq(line) {
			switch {
			case current == "":
				current = word
			case len([]rune(current))+1+len([]rune(word)) <= column:
				current += " " + word
			default:
				out = append(out, current)
				current = word
			}
		}
		out = append(out, current)
	}
	return out
}

// Summary prints the last line and returns an error naming the steps that did not hold.
func (t *Transcript) Summary() error {
	t.printf("\n%s\n", strings.Repeat("=", 96))
	total := time.Since(t.start).Seconds()
	if len(t.failed) == 0 {
		t.printf("%d steps, all held, in %.0f s.\n", t.steps, total)
		return nil
	}
	t.printf("%d of %d steps did not hold, in %.0f s:\n", len(t.failed), t.steps, total)
	for _, f := range t.failed {
		t.printf("  FAIL %s\n", f)
	}
	return fmt.Errorf("%d of %d steps did not hold", len(t.failed), t.steps)
}

// printf writes to the transcript. What cannot be shown is not worth ending a run for.
func (t *Transcript) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(t.w, format, args...)
}
