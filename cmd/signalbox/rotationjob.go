package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"signalbox/internal/app"
	"signalbox/internal/config"
)

// exitInUse is the exit code of rotation-job when a server has the database for
// itself and cannot be asked to do the job.
const exitInUse = 3

type rotationJobCommand struct{ config.Flags }

// Help is printed below the command's summary.
func (rotationJobCommand) Help() string {
	return `Does one cycle of the rotation and stops: queues all devices if ROTATION_CRON says so, ends attempts that timed out, and starts what is queued. A running server does all that by itself; this is for those who have a cron job for it. It takes the settings of the server.

    signalbox rotation-job

With PostgreSQL it works beside the servers: while one of them runs, that one carries the attempts out. With SQLite, which one process has for itself, the running server is asked at its internal listener to do it.

Exit codes: 0 done, 1 failed, 2 a mistake in the settings, 3 a running server has the database and cannot be asked.`
}

// Run does the job and prints what it did.
func (c *rotationJobCommand) Run(ctx context.Context, command *kong.Context, term terminal) error {
	settings, err := config.Load(config.Sources{Flags: config.Given(command), Environ: os.Environ(), ReadFile: os.ReadFile})
	if err != nil {
		return usageError{fmt.Errorf("the settings have mistakes:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))}
	}
	report, err := app.RotationJob(ctx, settings.Config, newLogger(term.err, settings.LogLevel, settings.LogFormat))
	switch {
	case errors.Is(err, app.ErrInUse):
		return codedError{err, exitInUse}
	case err != nil:
		return client(ctx, err)
	}
	// These lines are those of the reference system, for scripts that read them.
	scheduled := map[bool]string{true: "True", false: "False"}[report.Scheduled]
	out := fmt.Sprintf("Rotation job completed\n  Timeouts processed: %d\n  Device rotated: %s\n  Scheduled triggered: %s\n",
		report.Timeouts, cmp.Or(strings.Join(report.Rotated, ", "), "none"), scheduled)
	if report.Scheduled {
		out += fmt.Sprintf("  Devices queued: %d\n", report.Queued)
	}
	if report.Note != "" {
		out += "  " + report.Note + "\n"
	}
	_, err = fmt.Fprint(term.out, out)
	return err
}

// codedError is a failure with an exit code of its own.
type codedError struct {
	error
	code int
}

// Unwrap returns the failure.
func (e codedError) Unwrap() error { return e.error }
