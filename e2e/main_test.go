// Package e2e_test runs the built program as its users do: as a process with
// settings in its environment, real MQTT clients and brokers on one side of it
// and real event streams on the other, killed and starved on purpose. What it
// checks are the promises that the README makes.
package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// program is the path of the built binary. TestMain sets it before any test.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "signalbox-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "signalbox")
	build := exec.Command("go", "build", "-o", program, "signalbox/cmd/signalbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=") // as it is released, whatever these tests are built with
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building signalbox: %v\n%s", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // what is left is in the temporary directory
		os.Exit(code)
	}))
}

// tool returns the path of a program that the test cannot do without. On a
// machine that lacks it the test is skipped, unless CI is set to true.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s is not installed; \"make setup\" installs it on Debian", name)
	}
	return path
}

// missing skips the test because of what the machine lacks, or fails it if CI
// is set to true.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
