package elastic_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// built returns the path of a server's program, which is built from the module
// proxy once for a machine. prepare makes an empty directory a main module, from
// what the proxy has, and returns the package to build.
func built(t *testing.T, name string, prepare func(dir string, run func(args ...string) ([]byte, error)) (string, error)) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no place for a build: %v", err)
	}
	program := filepath.Join(cache, "signalbox-test", name)
	if _, err := os.Stat(program); err == nil {
		return program
	}
	if testing.Short() {
		t.Skipf("%s is not built yet, which takes minutes", name)
	}
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(args ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := cmd.Output()
		if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // it is what Output returns
			err = fmt.Errorf("%w\n%s", err, e.Stderr)
		}
		return out, err
	}
	pkg, err := prepare(dir, run)
	part := fmt.Sprintf("%s.%d", program, os.Getpid())
	if err == nil {
		_, err = run("build", "-o", part, pkg)
	}
	if err == nil {
		err = os.Rename(part, program)
	}
	if err != nil {
		failure := t.Skipf
		if os.Getenv("CI") == "true" {
			failure = t.Fatalf // the proxy is there
		}
		failure("%s cannot be built: %v", name, err)
	}
	return program
}

// start runs a server until the test ends; what it said is shown if that failed.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Log(said.String())
		}
	})
}

// await tries until it works.
func await(t *testing.T, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
