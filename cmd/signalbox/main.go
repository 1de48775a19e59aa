// Command signalbox runs and watches a fleet of MQTT devices: `signalbox
// serve` is the server, the other commands are its clients and helpers.
//
// Exit codes: 0 for success, 1 for failure, 2 for a mistake on the command
// line or in the settings, and 128 plus the signal's number (130 for Ctrl-C)
// for a client that was interrupted. serve and gateway end with 0 when a signal
// stopped them cleanly. rotation-job ends with 3 if it must leave the job to a
// server. A second signal ends any command at once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"signalbox/internal/config"
	"signalbox/internal/fleet"
)

// The exit codes, besides 128 plus a signal's number.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// commandLine is everything that can be typed after "signalbox".
type commandLine struct {
	ShowVersion kong.VersionFlag `name:"version" help:"Print the version and stop."`

	Serve       serveCommand       `cmd:"" help:"Run the server."`
	Gateway     gatewayCommand     `cmd:"" help:"Run the gateway that holds event streams in front of another backend."`
	Tail        tailCommand        `cmd:"" help:"Follow what devices say, live."`
	Logs        logsCommand        `cmd:"" help:"Print what devices said before, and follow them."`
	DeadLetters deadLettersCommand `cmd:"" help:"Show the lines that Elasticsearch refused, and offer them again."`
	Campaign    campaignCommand    `cmd:"" help:"Rotate the credentials of many devices, in waves."`
	Sim         simCommand         `cmd:"" help:"Simulate a fleet of devices."`
	Rotation    rotationCommand    `cmd:"" help:"Show and direct the rotation of the devices' credentials."`
	RotationJob rotationJobCommand `cmd:"" help:"Do one cycle of the rotation, for a cron job."`
	Devices     devicesCommand     `cmd:"" help:"List, make, import, export and provision devices."`
	Import      importCommand      `cmd:"" help:"Copy old log lines from Elasticsearch into the history."`
	User        userCommand        `cmd:"" help:"Add, change and list the people who may log in."`
	Token       tokenCommand       `cmd:"" help:"Make, list and revoke API tokens for scripts."`
	Audit       auditCommand       `cmd:"" help:"Print who did what."`
	Secrets     secretsCommand     `cmd:"" help:"Replace the key under which secrets are kept."`
	Version     versionCommand     `cmd:"" help:"Print the version, the commit and the Go version."`
	Completion  completionCommand  `cmd:"" help:"Print a script with which a shell completes commands and flags."`
	Complete    completeCommand    `cmd:"" name:"__complete" hidden:"" passthrough:"" help:"Answer the completion script."`
}

const description = `Shows what a fleet of MQTT devices is saying the moment it says it, and keeps what it said.

The server needs no configuration: signalbox serve

Each command explains itself: signalbox serve --help`

// terminal is what a command may use of the terminal it runs in.
type terminal struct {
	in       *os.File
	out, err io.Writer
}

func main() {
	os.Exit(run(os.Args[1:], terminal{os.Stdin, os.Stdout, os.Stderr}))
}

// run runs the command that args name and returns the exit code.
func run(args []string, term terminal) int {
	parser, err := newParser(term)
	if err != nil {
		fmt.Fprintln(term.err, "signalbox:", err)
		return exitFailure
	}
	ctx, stop := untilSignal(context.Background())
	defer stop()
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(term.err, "signalbox: %v\n%s\n", err, hint(err))
		return exitUsage
	}
	command.BindTo(ctx, (*context.Context)(nil))
	command.Bind(term)
	return exitCode(ctx, command.Run(), term)
}

// newParser returns the parser of the command line.
func newParser(term terminal) (*kong.Kong, error) {
	return kong.New(new(commandLine),
		kong.Name("signalbox"),
		kong.Description(description),
		kong.Vars{"version": version()},
		kong.Writers(term.out, term.err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(helpOf),
		config.AsText(),
		hideSettings(),
	)
}

// helpOf returns a flag's help with its default and its environment variable.
func helpOf(v *kong.Value) string {
	var notes []string
	if v.HasDefault && v.Default != "" && !v.IsBool() {
		notes = append(notes, "default "+v.Default)
	}
	for _, name := range v.Tag.Envs {
		notes = append(notes, "$"+name)
	}
	if len(notes) == 0 {
		return v.Help
	}
	return v.Help + " [" + strings.Join(notes, ", ") + "]"
}

// hint says where help is to be found after a mistake on the command line.
func hint(err error) string {
	command := "signalbox"
	if p, ok := errors.AsType[*kong.ParseError](err); ok && p.Context.Command() != "" {
		command += " " + strings.Fields(p.Context.Command())[0]
	}
	return "Try: " + command + " --help"
}

// usageError is a mistake of the caller rather than a failure.
type usageError struct{ error }

// Unwrap returns the mistake.
func (e usageError) Unwrap() error { return e.error }

// exitCode tells of err, if any, and returns the code for it.
func exitCode(ctx context.Context, err error, term terminal) int {
	if sig, ok := errors.AsType[interrupted](err); ok {
		return 128 + int(sig.signal)
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(term.err, "signalbox:", err)
	if e, ok := errors.AsType[codedError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[usageError](err); ok || fleet.KindOf(err) == fleet.Invalid {
		return exitUsage
	}
	return exitFailure
}

// interrupted says which signal asked the program to stop.
type interrupted struct{ signal syscall.Signal }

// Error implements error.
func (i interrupted) Error() string { return "stopped by signal: " + i.signal.String() }

// untilSignal returns a context that the first SIGINT or SIGTERM ends, with
// interrupted as its cause. The second signal finds the default behaviour
// again and kills the process. stop releases what waits for the signal.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case sig := <-signals:
			signal.Stop(signals)
			cancel(interrupted{sig.(syscall.Signal)})
		case <-ctx.Done():
			signal.Stop(signals)
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

// client returns the outcome of a command that runs until it is interrupted:
// a shell wants to know that it was (128+n), where a server wants to say that
// it ended well.
func client(ctx context.Context, err error) error {
	if sig, ok := errors.AsType[interrupted](context.Cause(ctx)); ok {
		return sig
	}
	return err
}
