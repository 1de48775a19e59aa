package main

import (
	"context"
	"os/signal"
	"syscall"

	"signalbox/internal/tail"
)

type rotationCommand struct {
	Status  rotationStatusCommand  `cmd:"" help:"Print how many devices are in which state, and when all are rotated next."`
	Trigger rotationTriggerCommand `cmd:"" help:"Queue all active devices that are not in a rotation."`
	Rotate  rotationRotateCommand  `cmd:"" help:"Rotate the credential of a device, before all others."`
	Abort   rotationAbortCommand   `cmd:"" help:"End the attempt of a device, or take it from the queue."`
	Retry   rotationRetryCommand   `cmd:"" help:"Do again at once what failed for a device."`
	History rotationHistoryCommand `cmd:"" help:"Print the last attempts of a device, step by step."`
}

// Help is printed below the command's summary.
func (rotationCommand) Help() string {
	return `Each device gets a new secret, uses it, and only then loses the old one.

    signalbox rotation status
    signalbox rotation rotate kitchen-sensor
    signalbox rotation history kitchen-sensor`
}

// rotationFlags are what these commands have in common.
type rotationFlags struct {
	JSON bool `name:"json" help:"Print what the server answers, as JSON on one line."`

	serverFlags
}

func (f *rotationFlags) run(ctx context.Context, term terminal, does func(context.Context, tail.RotationConfig) error) error {
	signal.Ignore(syscall.SIGPIPE) // as in tail
	return f.outcome(ctx, does(ctx, tail.RotationConfig{Server: f.Server, Token: f.token(), JSON: f.JSON, Out: term.out}))
}

// rotatedDevice is the device that a command is about.
type rotatedDevice struct {
	Device string `arg:"" help:"Device by key, entity id or name."`
}

// with makes the device the one that does is about.
func (d *rotatedDevice) with(does func(context.Context, tail.RotationConfig, string) error) func(context.Context, tail.RotationConfig) error {
	return func(ctx context.Context, cfg tail.RotationConfig) error { return does(ctx, cfg, d.Device) }
}

type rotationStatusCommand struct{ rotationFlags }

// Run prints the status.
func (c *rotationStatusCommand) Run(ctx context.Context, term terminal) error {
	return c.run(ctx, term, tail.RotationStatus)
}

type rotationTriggerCommand struct{ rotationFlags }

// Run queues the devices.
func (c *rotationTriggerCommand) Run(ctx context.Context, term terminal) error {
	return c.run(ctx, term, tail.TriggerRotation)
}

type rotationRotateCommand struct {
	rotatedDevice
	rotationFlags
}

// Run queues the device.
func (c *rotationRotateCommand) Run(ctx context.Context, term terminal) error {
	return c.run(ctx, term, c.with(tail.RotateDevice))
}

type rotationAbortCommand struct {
	rotatedDevice
	rotationFlags
}

// Run ends the attempt.
func (c *rotationAbortCommand) Run(ctx context.Context, term terminal) error {
	return c.run(ctx, term, c.with(tail.AbortRotation))
}

type rotationRetryCommand struct {
	rotatedDevice
	rotationFlags
}

// Run tries again.
func (c *rotationRetryCommand) Run(ctx context.Context, term terminal) error {
	return c.run(ctx, term, c.with(tail.RetryRotation))
}

type rotationHistoryCommand struct {
	rotatedDevice
	Attempts int `short:"n" default:"5" placeholder:"N" help:"Print the last N attempts, 1 to 100."`
	rotationFlags
}

// Run prints the attempts.
func (c *rotationHistoryCommand) Run(ctx context.Context, term terminal) error {
	return c.run(ctx, term, c.with(func(ctx context.Context, cfg tail.RotationConfig, device string) error {
		return tail.RotationHistory(ctx, cfg, device, c.Attempts)
	}))
}
