package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"signalbox/internal/app"
	"signalbox/internal/config"
)

type secretsCommand struct {
	Reencrypt secretsReencrypt `cmd:"" help:"Encrypt what the database keeps secret under another SECRET_KEY."`
}

type secretsReencrypt struct {
	OldKeyFile string `placeholder:"FILE" help:"File with the key of so far. Without it: $$SECRET_KEY_OLD, or else secret.key in DATA_DIR."`
	Generate   bool   `help:"Make a new key and keep it in secret.key in DATA_DIR, instead of taking SECRET_KEY."`
	DryRun     bool   `help:"Try whether everything can be read, and store nothing."`

	databaseFlags
}

// Help is printed below the command's summary.
func (secretsReencrypt) Help() string {
	return `Replaces the key that SECRET_KEY is: the secrets of devices, those of rotations under way and the keys that tokens are signed with are read with the old key and encrypted with the new one, all of them or none. Stop every server of the database first. Then start them with the new key.

    SECRET_KEY_FILE=/run/secrets/new signalbox secrets reencrypt --old-key-file /run/secrets/old --dry-run
    SECRET_KEY_FILE=/run/secrets/new signalbox secrets reencrypt --old-key-file /run/secrets/old
    signalbox secrets reencrypt --generate

It takes the settings of serve. When it was interrupted, the same command does the rest.`
}

// Run encrypts everything anew.
func (c *secretsReencrypt) Run(ctx context.Context, command *kong.Context, term terminal) error {
	settings, err := config.Load(config.Sources{Flags: config.Given(command), Environ: os.Environ(), ReadFile: os.ReadFile})
	if err != nil {
		return usageError{fmt.Errorf("the settings have mistakes:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))}
	}
	o := app.ReencryptOptions{OldKey: os.Getenv("SECRET_KEY_OLD"), Generate: c.Generate, DryRun: c.DryRun}
	if c.OldKeyFile != "" {
		content, err := os.ReadFile(c.OldKeyFile)
		if err != nil {
			return usageError{fmt.Errorf("--old-key-file: %w", err)}
		}
		if o.OldKey = strings.TrimSpace(string(content)); o.OldKey == "" {
			return usageError{errors.New("--old-key-file: the file is empty")}
		}
	}
	report, err := app.Reencrypt(ctx, settings.Config, o)
	if err != nil {
		return client(ctx, err)
	}
	did := "Encrypted with the new key"
	if c.DryRun {
		did = "Would be encrypted with the new key"
	}
	fmt.Fprintf(term.out, "%s: %d secrets of devices, %d secrets of rotations, %d signing keys. %d were before.\n", did, report.Secrets, report.Rotations, report.Keys, report.Already)
	if c.DryRun {
		return nil
	}
	if report.Generated {
		fmt.Fprintf(term.out, "The new key is in secret.key in %s. Back it up with the database.\n", settings.DataDir)
	}
	return c.use(ctx, command, term, false, func(p *people) error {
		return p.record(ctx, "secrets.reencrypt", "", "", nil)
	})
}
