// Package tap writes the Test Anything Protocol, version 13.
//
// It stands in for github.com/mndrix/tap-go, which Debian does not have: the same names, as far as the OCI runtime-tools
// use them.
package tap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// T counts the results of one test program.
type T struct {
	// Writer is where the results go; standard output if it is nil.
	Writer io.Writer

	planned bool
	count   int
	todo    bool
}

// New makes a T that writes to standard output.
func New() *T {
	return &T{}
}

func (t *T) printf(format string, args ...interface{}) {
	w := t.Writer
	if w == nil {
		w = os.Stdout
	}
	fmt.Fprintf(w, format, args...)
}

// Header writes the version, and the plan unless count is 0.
func (t *T) Header(count int) {
	t.printf("TAP version 13\n")
	if count > 0 {
		t.plan(count)
	}
}

func (t *T) plan(count int) {
	t.planned = true
	t.printf("1..%d\n", count)
}

// AutoPlan writes the plan of what ran, for programs that gave none at the start.
func (t *T) AutoPlan() {
	if !t.planned {
		t.plan(t.count)
	}
}

// Ok writes one result.
func (t *T) Ok(passed bool, description string) {
	word := "ok"
	if !passed {
		word = "not ok"
	}
	directive := ""
	if t.todo {
		directive = " # TODO"
	}
	t.count++
	t.printf("%s %d - %s%s\n", word, t.count, description, directive)
}

// Pass writes a passed result.
func (t *T) Pass(description string) {
	t.Ok(true, description)
}

// Fail writes a failed result.
func (t *T) Fail(description string) {
	t.Ok(false, description)
}

// Skip writes results that were skipped, with the reason.
func (t *T) Skip(count int, reason string) {
	for ; count > 0; count-- {
		t.count++
		t.printf("ok %d # SKIP %s\n", t.count, reason)
	}
}

// Todo returns a T whose failures are expected.
func (t *T) Todo() *T {
	other := *t
	other.todo = true
	return &other
}

// Diagnostic writes a comment.
func (t *T) Diagnostic(message string) {
	for _, line := range strings.Split(strings.TrimRight(message, "\n"), "\n") {
		t.printf("# %s\n", line)
	}
}

// Diagnosticf writes a formatted comment.
func (t *T) Diagnosticf(format string, args ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, args...))
}

// YAML writes a block of data about the last result. JSON is YAML.
func (t *T) YAML(data interface{}) error {
	text, err := json.MarshalIndent(data, "  ", "  ")
	if err != nil {
		return err
	}
	t.printf("  ---\n  %s\n  ...\n", text)
	return nil
}
