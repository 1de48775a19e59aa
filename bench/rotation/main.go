//go:build linux

// Command rotation measures how long it takes to rotate the credentials of a fleet
// with several devices in flight, as a ratio to one after the other, which is how
// it was done before there was a choice. Both are measured in the same run, with
// the program and the simulated devices of "signalbox sim", each of which thinks
// for a while before each step, as real ones do. See docs/PERFORMANCE.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"signalbox/bench/target"
	"signalbox/internal/sim"
)

func main() { target.Main("rotation", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("rotation", flag.ContinueOnError)
	devices := flags.Int("devices", 200, "devices that are rotated")
	inFlight := flags.Int("in-flight", 20, "devices that are rotated at once")
	think := flags.Duration("think", 250*time.Millisecond, "what a device takes before each step")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "signalbox-rotation-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := target.Build(ctx, dir)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "in flight\tdevices\ttotal\tper device\tin its slot\tthinking\tin requests\tbetween\tCPU\tratio\t")
	var first float64
	for _, n := range []int{*inFlight, 1} {
		fleet := &fleet{program: program, dir: filepath.Join(dir, strconv.Itoa(n)), devices: *devices, think: *think}
		m, err := fleet.measure(ctx, n)
		if err != nil {
			return fmt.Errorf("%d in flight: %w", n, err)
		}
		total := m.total.Seconds()
		ratio := ""
		if first == 0 {
			first = total
		} else {
			ratio = fmt.Sprintf("%.1f", total/first)
		}
		each := total / float64(*devices)
		slot := each * float64(n)
		// Of the slot: what the device thinks until its secret is proven, what its
		// requests take until then, and the rest, from the end of an attempt to the
		// notice of the next, and from a proof to its end. The CPU is that of the
		// server and of all devices together, for one that is rotated.
		fmt.Fprintf(w, "%d\t%d\t%.1f s\t%.0f ms\t%.0f ms\t%.0f ms\t%.1f ms\t%.0f ms\t%.1f ms\t%s\t\n", n, *devices, total, each*1000, slot*1000,
			m.thinking.Seconds()*1000, m.requests.Seconds()*1000, (slot-m.thinking.Seconds()-m.requests.Seconds())*1000,
			m.cpu.Seconds()*1000/float64(*devices), ratio)
	}
	return w.Flush()
}

// fleet is a Signalbox of its own with its simulated devices.
type fleet struct {
	program, dir string
	devices      int
	think        time.Duration
	api          target.API
	mqtt         string
	server       *target.Process
	boards       *exec.Cmd
	said         *os.File
	report       string
}

// measured is how a rotation of all devices went.
type measured struct {
	total    time.Duration
	thinking time.Duration // of one device while it held its slot
	requests time.Duration // of one device while it held its slot, on average
	cpu      time.Duration // of the server and the devices
}

func (f *fleet) measure(ctx context.Context, inFlight int) (m measured, err error) {
	if err := f.start(ctx, inFlight); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	if err := f.connect(ctx); err != nil {
		return m, err
	}
	before, err := f.cpu()
	if err != nil {
		return m, err
	}
	begin := time.Now()
	var queued struct {
		Queued int `json:"queued_count"`
	}
	if err := f.api.Do(ctx, "POST", "/api/rotation/trigger", nil, &queued); err != nil {
		return m, err
	}
	if queued.Queued != f.devices {
		return m, fmt.Errorf("%d devices were queued, not %d", queued.Queued, f.devices)
	}
	for {
		var status struct {
			Counts map[string]int `json:"counts_by_state"`
		}
		if err := f.api.Do(ctx, "GET", "/api/rotation/status", nil, &status); err != nil {
			return m, err
		}
		if n := status.Counts; n["OK"] == f.devices {
			break
		} else if n["TIMEOUT"] > 0 {
			return m, fmt.Errorf("%d devices timed out", n["TIMEOUT"])
		}
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	m.total = time.Since(begin)
	after, err := f.cpu()
	if err != nil {
		return m, err
	}
	m.cpu = after - before
	time.Sleep(4*f.think + time.Second) // the last devices go on with their new secret
	r, err := f.told()
	if err != nil {
		return m, err
	}
	if r.Endings[sim.Rotated] != f.devices {
		return m, fmt.Errorf("not all devices rotated: %v", r.Endings)
	}
	steps := []string{"fetch", "proof"} // what follows is after the end of the attempt
	for _, s := range steps {
		m.requests += time.Duration(r.Steps[s].Seconds / float64(f.devices) * float64(time.Second))
	}
	m.thinking = time.Duration(len(steps)) * f.think
	return m, nil
}

// start runs the server.
func (f *fleet) start(ctx context.Context, inFlight int) error {
	addrs, err := target.Addrs(3)
	if err != nil {
		return err
	}
	f.api.Addr, f.mqtt = addrs[0], addrs[2]
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	f.server, err = target.Start(ctx, "http://"+f.api.Addr+"/health/readyz", []string{
		target.Port(f.api.Addr), "DATA_DIR=" + filepath.Join(f.dir, "data"), "MQTT_LISTEN=" + f.mqtt, "INTERNAL_LISTEN=" + addrs[1],
		"BASEURL=http://" + f.api.Addr, "MQTT_AUTH=token", "LOG_LEVEL=error", "ROTATION_IN_FLIGHT=" + strconv.Itoa(inFlight),
	}, f.program, "serve")
	return err
}

// connect starts the devices and waits until all of them are connected.
func (f *fleet) connect(ctx context.Context) (err error) {
	f.report = filepath.Join(f.dir, "report.json")
	said := filepath.Join(f.dir, "sim.log")
	if f.said, err = os.Create(said); err != nil {
		return err
	}
	f.boards = exec.Command(f.program, "sim", "--devices", strconv.Itoa(f.devices), "--rate", "0.05", "--login", "token", "--think", f.think.String(),
		"--server", "http://"+f.api.Addr, "--mqtt", "mqtt://"+f.mqtt, "--rotate-report", f.report)
	f.boards.Stderr = f.said
	f.boards.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.boards.Start(); err != nil {
		return err
	}
	for range 3000 {
		text, err := os.ReadFile(said)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "all devices are running") {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("the devices do not connect")
}

// told ends the devices and returns their report.
func (f *fleet) told() (r sim.Report, err error) {
	_ = f.boards.Process.Signal(os.Interrupt) // it may have ended
	_ = f.boards.Wait()                       // its error is the exit code
	f.boards = nil
	text, err := os.ReadFile(f.report)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r)
}

// cpu returns the time that the server and the devices have had so far.
func (f *fleet) cpu() (sum time.Duration, err error) {
	for _, pid := range []int{f.server.PID(), f.boards.Process.Pid} {
		one, err := target.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

func (f *fleet) stop() error {
	if f.boards != nil {
		_ = f.boards.Process.Kill() // it may have ended
		_ = f.boards.Wait()
	}
	if f.said != nil {
		_ = f.said.Close()
	}
	return f.server.Stop()
}
