package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"signalbox/internal/app"
	"signalbox/internal/config"
)

type serveCommand struct {
	PrintConfig bool `help:"Print every setting, its value and where the value came from, and stop."`

	config.Flags
}

// Help is printed below the command's summary.
func (serveCommand) Help() string {
	return `Runs the server with everything it needs inside: an MQTT broker, a journal and a database, kept in ./data.

    signalbox serve

Every flag can also be given in the environment under the name after the '$', or in a file. For example, to take lines from a broker that runs elsewhere and keep two weeks:

    MQTT_URL=mqtts://broker.example.org signalbox serve --journal-max-age 14d --print-config

SIGTERM or Ctrl-C shuts down in order; a second one at once.`
}

// Run loads the settings and serves until ctx ends.
func (c *serveCommand) Run(ctx context.Context, command *kong.Context, term terminal) error {
	settings, err := config.Load(config.Sources{Flags: config.Given(command), Environ: os.Environ(), ReadFile: os.ReadFile})
	if err != nil {
		return usageError{fmt.Errorf("the settings have mistakes:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))}
	}
	if c.PrintConfig {
		for _, warning := range settings.Warnings {
			fmt.Fprintln(term.err, "signalbox: setting ignored:", warning)
		}
		return settings.Print(term.out)
	}
	log := newLogger(term.err, settings.LogLevel, settings.LogFormat)
	for _, warning := range settings.Warnings {
		log.Warn("setting ignored", "reason", warning)
	}
	return app.Serve(ctx, settings.Config, readBuild().String(), log)
}

// newLogger returns the logger that LOG_LEVEL and LOG_FORMAT ask for.
func newLogger(w io.Writer, level, format string) *slog.Logger {
	options := new(slog.HandlerOptions)
	var l slog.Level
	if l.UnmarshalText([]byte(level)) == nil { // config has checked it
		options.Level = l
	}
	if format == "text" || format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// isTerminal reports whether a person is likely to read w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
