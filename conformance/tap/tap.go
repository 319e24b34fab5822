// Package tap writes the Test Anything Protocol, version 13: what the programs of the validation suite report through.
// validation.sh puts it where they import it from.
package tap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// T is one stream of test lines. A T made by Todo shares the numbers of the T that it came from.
type T struct {
	Writer io.Writer
	count  *int
	todo   bool
}

// New gives a stream to standard output.
func New() *T {
	return &T{Writer: os.Stdout, count: new(int)}
}

func (t *T) line(format string, values ...interface{}) {
	fmt.Fprintf(t.Writer, format+"\n", values...)
}

func (t *T) plan(last int) {
	t.line("1..%d", last)
}

func (t *T) test(passed bool, description, directive string) {
	*t.count++
	verdict := "ok"
	if !passed {
		verdict = "not ok"
	}
	t.line("%s %d - %s%s", verdict, *t.count, strings.ReplaceAll(description, "\n", " "), directive)
}

// Header begins the stream; tests is the plan, or 0 if AutoPlan will end it.
func (t *T) Header(tests int) {
	t.line("TAP version 13")
	if tests > 0 {
		t.plan(tests)
	}
}

// AutoPlan ends the stream with the number of tests that there were.
func (t *T) AutoPlan() {
	t.plan(*t.count)
}

// Ok reports one test.
func (t *T) Ok(passed bool, description string) {
	directive := ""
	if t.todo {
		directive = " # TODO"
	}
	t.test(passed, description, directive)
}

// Pass reports a test that passed.
func (t *T) Pass(description string) {
	t.Ok(true, description)
}

// Fail reports a test that failed.
func (t *T) Fail(description string) {
	t.Ok(false, description)
}

// Skip reports that many tests as skipped.
func (t *T) Skip(tests int, why string) {
	for ; tests > 0; tests-- {
		t.test(true, "", "# SKIP "+strings.ReplaceAll(why, "\n", " "))
	}
}

// Todo gives a stream whose tests may fail.
func (t *T) Todo() *T {
	return &T{Writer: t.Writer, count: t.count, todo: true}
}

// Diagnostic writes a comment.
func (t *T) Diagnostic(text string) {
	t.line("# %s", strings.ReplaceAll(text, "\n", "\n# "))
}

// Diagnosticf writes a formatted comment.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML writes a structure that explains the test before it: as JSON, which YAML contains.
func (t *T) YAML(structure interface{}) error {
	text, err := json.MarshalIndent(structure, "  ", "  ")
	if err != nil {
		return err
	}
	t.line("  ---\n  %s\n  ...", text)
	return nil
}
