//go:build linux

// Command bench measures Signalbox against a floor: the least that net/http
// needs to broadcast events. Both run on this machine in one run and in turn, so
// that the ratio of their figures carries over to other machines. See
// docs/PERFORMANCE.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// floorArg makes this program the floor.
const floorArg = "serve-the-floor"

// The main goroutine keeps the main thread: see start.
func init() { runtime.LockOSThread() }

func main() {
	if slices.Equal(os.Args[1:], []string{floorArg}) {
		runtime.UnlockOSThread()
		fmt.Fprintln(os.Stderr, serveFloor())
		os.Exit(1)
	}
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("only", "", "scenarios to run, separated by commas: "+names()+"; default all")
	quick := flags.Bool("quick", false, "shorter and fewer trials: shows that it works, not how fast")
	asJSON := flags.Bool("json", false, "print one line of JSON instead of the table")
	program := flags.String("server", "", "a signalbox `program`; default: build it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	// Goroutines that wait in a system call keep their slot for a while; spare
	// slots let the others go on. Little garbage is made; collect it rarely.
	runtime.GOMAXPROCS(runtime.NumCPU() + 4)
	debug.SetGCPercent(400)
	if err := moreFiles(11000); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go watchParent(ctx, cancel)
	dir, err := os.MkdirTemp("", "signalbox-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{program: *program, dir: dir, quick: *quick, log: stderr, report: report{Processors: runtime.NumCPU(), Go: runtime.Version()}}
	if b.program == "" {
		b.program = filepath.Join(dir, "signalbox")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.program, "signalbox/cmd/signalbox")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	for _, i := range chosen {
		began := time.Now()
		fmt.Fprintln(stderr, scenarios[i].name)
		if err := scenarios[i].run(b, ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return err
		}
		fmt.Fprintf(stderr, "  %.0f s\n", time.Since(began).Seconds())
	}
	if *asJSON {
		err = b.report.json(stdout)
	} else {
		err = b.report.table(stdout)
	}
	if faults := b.report.faults(); faults != "" {
		err = errors.Join(err, errors.New(faults))
	}
	return err
}

func names() string {
	var n []string
	for _, s := range scenarios {
		n = append(n, s.name)
	}
	return strings.Join(n, ", ")
}

// choose returns the indexes of the scenarios named in only.
func choose(only string) (chosen []int, err error) {
	for name := range strings.SplitSeq(only, ",") {
		found := only == ""
		for i, s := range scenarios {
			if only == "" || s.name == strings.TrimSpace(name) {
				chosen, found = append(chosen, i), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no scenario %q; there are %s", name, names())
		}
	}
	return chosen, nil
}

// moreFiles lets this process and its children have n open files.
func moreFiles(n uint64) error {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	if err == nil && limit.Cur < n {
		limit.Cur, limit.Max = n, max(n, limit.Max)
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	if err != nil {
		return fmt.Errorf("%d open files are needed (ulimit -n): %w", n, err)
	}
	return nil
}

// watchParent cancels when the process that started this one ends: `go run`
// does not pass its own end on.
func watchParent(ctx context.Context, cancel func()) {
	for parent := os.Getppid(); ctx.Err() == nil; sleep(ctx, 500*time.Millisecond) {
		if os.Getppid() != parent {
			cancel()
		}
	}
}
