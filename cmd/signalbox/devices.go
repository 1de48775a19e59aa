package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/tail"
)

type devicesCommand struct {
	List    devicesList    `cmd:"" default:"withargs" help:"List the devices."`
	Create  devicesCreate  `cmd:"" help:"Make a device and print its key."`
	Import  devicesImport  `cmd:"" help:"Make devices of the lines of a CSV file."`
	Export  devicesExport  `cmd:"" help:"Write the devices as CSV."`
	Package devicesPackage `cmd:"" help:"Write what a device is provisioned with: its credentials and where to go with them."`
	Link    devicesLink    `cmd:"" help:"Make a link to that, which can be used once."`
	Revoke  devicesRevoke  `cmd:"" help:"Withdraw the credential of a device."`
	Restore devicesRestore `cmd:"" help:"Make a withdrawn credential good again."`
	Delete  devicesDelete  `cmd:"" help:"Delete a device."`
}

// Help is printed below the command's summary.
func (devicesCommand) Help() string {
	return `    signalbox devices import new.csv --dry-run
    signalbox devices package kitchen-sensor --format nvs --partition-size 16384 --out nvs.bin
    signalbox devices package kitchen-sensor --format qr-terminal
    signalbox devices link kitchen-sensor --expires 24h`
}

// use runs f on the devices of the server.
func (s *serverFlags) use(ctx context.Context, term terminal, out io.Writer, f func(*tail.Fleet) error) error {
	signal.Ignore(syscall.SIGPIPE) // as in tail
	devices, err := tail.OpenFleet(s.Server, s.token(), out, term.err)
	if err != nil {
		return err
	}
	defer devices.Close()
	return s.outcome(ctx, f(devices))
}

type devicesList struct {
	Model string `placeholder:"CODE" help:"Only those of this model."`
	JSON  bool   `name:"json" help:"Print one JSON object a line."`
	serverFlags
}

// Run lists the devices.
func (c *devicesList) Run(ctx context.Context, term terminal) error {
	return c.use(ctx, term, term.out, func(f *tail.Fleet) error { return f.List(ctx, c.Model, c.JSON) })
}

type devicesCreate struct {
	Model  string `arg:"" help:"Code of its model."`
	Config string `default:"{}" placeholder:"JSON" help:"Its config; @FILE takes it from a file."`
	serverFlags
}

// Run makes the device.
func (c *devicesCreate) Run(ctx context.Context, term terminal) error {
	config := c.Config
	if name, ok := strings.CutPrefix(config, "@"); ok {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		config = string(b)
	}
	return c.use(ctx, term, term.out, func(f *tail.Fleet) error { return f.Create(ctx, c.Model, config) })
}

type devicesImport struct {
	File   string `arg:"" help:"CSV file; - is standard input."`
	DryRun bool   `help:"Only say what is wrong with which line."`
	serverFlags
}

// Help is printed below the command's summary.
func (devicesImport) Help() string {
	return `The first line names the columns, separated by commas or semicolons: model (its code; needed), name, entity_id, tags (separated by spaces), active, config (JSON) and key (of a device that has one). A line whose device is there already changes nothing, so that a file can be imported again.`
}

// Run imports the file.
func (c *devicesImport) Run(ctx context.Context, term terminal) error {
	file, err := readAtMost(c.File, term.in, registry.MaxImportBytes)
	if err != nil {
		return err
	}
	var counts tail.ImportCounts
	bar := &importBar{out: term.err, on: isTerminal(term.err)}
	said := term
	said.err = bar
	err = c.use(ctx, said, term.out, func(f *tail.Fleet) error {
		var err error
		counts, err = f.Import(ctx, file, c.DryRun, bar.show)
		return err
	})
	bar.clear()
	if counts.Lines > 0 || err == nil {
		made := fmt.Sprintf("%d made", counts.Created)
		if c.DryRun {
			made = fmt.Sprintf("%d could be made", counts.OK)
		}
		fmt.Fprintf(term.out, "%d lines: %s, %d there already, %d with errors\n", counts.Lines, made, counts.Exists, counts.Errors)
	}
	if err == nil && counts.Errors > 0 {
		return fmt.Errorf("%d lines have errors", counts.Errors)
	}
	return err
}

// readAtMost reads a file, or standard input for "-".
func readAtMost(name string, in io.Reader, most int64) ([]byte, error) {
	r := in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fleet.E(fleet.Invalid, nil, "%s has more than %d bytes: split it", name, most)
	}
	return b, err
}

// importBar is a line that says how far an import is, below what is said of its
// lines.
type importBar struct {
	out   io.Writer
	on    bool // a person looks at it
	shown bool
	last  time.Time
	text  string
}

// show says how far it is.
func (b *importBar) show(done, total int) {
	if !b.on || total <= 0 || time.Since(b.last) < 100*time.Millisecond && done < total {
		return
	}
	const width = 30
	full := width * done / total
	b.text = fmt.Sprintf("[%s%s] %d of %d", strings.Repeat("#", full), strings.Repeat(".", width-full), done, total)
	b.last = time.Now()
	b.draw()
}

func (b *importBar) draw() {
	fmt.Fprint(b.out, "\r\x1b[K"+b.text)
	b.shown = true
}

// Write implements io.Writer for what is said of the lines.
func (b *importBar) Write(p []byte) (int, error) {
	again := b.shown
	b.clear()
	n, err := b.out.Write(p)
	if again && bytes.HasSuffix(p, []byte("\n")) {
		b.draw()
	}
	return n, err
}

func (b *importBar) clear() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
		b.shown = false
	}
}

// outFlag is where something goes that a file may be made of.
type outFlag struct {
	Out string `short:"o" placeholder:"FILE" help:"Write it into this file, which only you can read, instead of to standard output."`
}

// to has f write, to the file if there is to be one. Half a file does not stay.
func (o *outFlag) to(term terminal, f func(io.Writer) error) error {
	if o.Out == "" {
		return f(term.out)
	}
	file, err := os.OpenFile(o.Out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f(file), file.Close()); err != nil {
		_ = os.Remove(o.Out) // it may be a device, say
		return err
	}
	return nil
}

type devicesExport struct {
	outFlag
	serverFlags
}

// Run exports the devices.
func (c *devicesExport) Run(ctx context.Context, term terminal) error {
	return c.to(term, func(w io.Writer) error {
		return c.use(ctx, term, w, func(f *tail.Fleet) error { return f.Export(ctx) })
	})
}

type devicesPackage struct {
	Device        string `arg:"" help:"The device by key, entity id or name."`
	Format        string `enum:"json,nvs,qr-terminal" default:"json" help:"json, nvs (a partition for ESP-IDF) or qr-terminal (a QR code)."`
	PartitionSize int    `default:"16384" placeholder:"BYTES" help:"Size of the NVS partition: a multiple of 4096, at least 12288."`
	outFlag
	serverFlags
}

// Run writes the package.
func (c *devicesPackage) Run(ctx context.Context, term terminal) error {
	if c.Format == registry.FormatNVS && c.Out == "" && isTerminal(term.out) {
		return usageError{errors.New("a partition is not for a terminal: say where it goes with --out")}
	}
	return c.to(term, func(w io.Writer) error {
		return c.use(ctx, term, w, func(f *tail.Fleet) error { return f.Package(ctx, c.Device, c.Format, c.PartitionSize) })
	})
}

type devicesLink struct {
	Device        string        `arg:"" help:"The device by key, entity id or name."`
	Format        string        `enum:"json,nvs,qr" default:"json" help:"What it leads to: json, nvs or qr."`
	PartitionSize int           `default:"16384" placeholder:"BYTES" help:"Size of the NVS partition: a multiple of 4096, at least 12288."`
	Expires       time.Duration `default:"1h" placeholder:"TIME" help:"How long it is good if it is not used: 1m to 168h."`
	serverFlags
}

// Run makes the link.
func (c *devicesLink) Run(ctx context.Context, term terminal) error {
	return c.use(ctx, term, term.out, func(f *tail.Fleet) error {
		return f.Link(ctx, c.Device, c.Format, c.PartitionSize, c.Expires)
	})
}

// oneDevice is what commands about one device have in common.
type oneDevice struct {
	Device string `arg:"" help:"The device by key, entity id or name."`
	serverFlags
}

type devicesRevoke struct{ oneDevice }

// Run revokes the credential.
func (c *devicesRevoke) Run(ctx context.Context, term terminal) error {
	return c.use(ctx, term, term.out, func(f *tail.Fleet) error { return f.Revoke(ctx, c.Device) })
}

type devicesRestore struct {
	oneDevice
	NewSecret bool `help:"Give it another secret, and destroy every one that it had: for one whose secret somebody else may know. It has to be provisioned anew."`
}

// Run restores the credential.
func (c *devicesRestore) Run(ctx context.Context, term terminal) error {
	return c.use(ctx, term, term.out, func(f *tail.Fleet) error { return f.Restore(ctx, c.Device, c.NewSecret) })
}

type devicesDelete struct {
	oneDevice
	Yes bool `help:"Do not ask."`
}

// Run deletes the device.
func (c *devicesDelete) Run(ctx context.Context, term terminal) error {
	if !c.Yes && !isTerminal(term.in) {
		return usageError{errors.New("nobody can be asked: --yes deletes without")}
	}
	sure := func(device string) bool {
		if c.Yes {
			return true
		}
		fmt.Fprintf(term.err, "Delete %s? It can never log in again. [y/N] ", device)
		line, _ := bufio.NewReader(term.in).ReadString('\n') // what cannot be read is no yes
		return strings.EqualFold(strings.TrimSpace(line), "y") || strings.EqualFold(strings.TrimSpace(line), "yes")
	}
	return c.use(ctx, term, term.out, func(f *tail.Fleet) error { return f.Delete(ctx, c.Device, sure) })
}
