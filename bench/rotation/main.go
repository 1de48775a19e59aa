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
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"signalbox/internal/sim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rotation:", err)
		os.Exit(1)
	}
}

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
	program := filepath.Join(dir, "signalbox")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "signalbox/cmd/signalbox").CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
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
	program, dir        string
	devices             int
	think               time.Duration
	api, internal, mqtt string
	server, boards      *exec.Cmd
	said                *os.File
	report              string
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
	if err := f.ask(ctx, "POST", "/api/rotation/trigger", &queued); err != nil {
		return m, err
	}
	if queued.Queued != f.devices {
		return m, fmt.Errorf("%d devices were queued, not %d", queued.Queued, f.devices)
	}
	for {
		var status struct {
			Counts map[string]int `json:"counts_by_state"`
		}
		if err := f.ask(ctx, "GET", "/api/rotation/status", &status); err != nil {
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
	for _, addr := range []*string{&f.api, &f.internal, &f.mqtt} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*addr = l.Addr().String()
		if err := l.Close(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(f.api) // it is one
	f.server = exec.Command(f.program, "serve")
	f.server.Dir = f.dir
	f.server.Env = append(os.Environ(), "PORT="+port, "DATA_DIR="+filepath.Join(f.dir, "data"), "MQTT_LISTEN="+f.mqtt, "INTERNAL_LISTEN="+f.internal,
		"BASEURL=http://"+f.api, "MQTT_AUTH=token", "LOG_LEVEL=error", "ROTATION_IN_FLIGHT="+strconv.Itoa(inFlight))
	f.server.Stderr = os.Stderr
	f.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.server.Start(); err != nil {
		return err
	}
	for range 1000 {
		if f.ask(ctx, "GET", "/health/readyz", nil) == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), f.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return errors.Join(errors.New("it does not become ready"), f.stop())
}

// connect starts the devices and waits until all of them are connected.
func (f *fleet) connect(ctx context.Context) (err error) {
	f.report = filepath.Join(f.dir, "report.json")
	said := filepath.Join(f.dir, "sim.log")
	if f.said, err = os.Create(said); err != nil {
		return err
	}
	f.boards = exec.Command(f.program, "sim", "--devices", strconv.Itoa(f.devices), "--rate", "0.05", "--login", "token", "--think", f.think.String(),
		"--server", "http://"+f.api, "--mqtt", "mqtt://"+f.mqtt, "--rotate-report", f.report)
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
	const tick = 10 * time.Millisecond // proc(5): USER_HZ is 100 on every Linux that Go runs on
	for _, cmd := range []*exec.Cmd{f.server, f.boards} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, at := range []int{11, 12} { // utime and stime, counted from what follows the name
			n, err := strconv.ParseInt(fields[at], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(n) * tick
		}
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
	_ = f.server.Process.Signal(syscall.SIGTERM) // it may have ended
	return f.server.Wait()
}

func (f *fleet) ask(ctx context.Context, method, path string, out any) error {
	q, err := http.NewRequestWithContext(ctx, method, "http://"+f.api+path, nil)
	if err != nil {
		return err
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	content, err := io.ReadAll(a.Body)
	if err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", method, path, a.StatusCode, content)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(content, out)
}
