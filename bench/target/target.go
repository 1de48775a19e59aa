//go:build linux

// Package target runs what a benchmark measures: the program in a process of its
// own, with an API to set it up by and figures of what it uses.
package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	"time"
)

// Main runs a benchmark with the arguments of the command line, until it is
// interrupted.
func Main(name string, run func(ctx context.Context, args []string, stdout io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

// Build compiles the program into a directory, and returns its path.
func Build(ctx context.Context, dir string) (program string, err error) {
	program = filepath.Join(dir, "signalbox")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "signalbox/cmd/signalbox").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
}

// Addrs returns loopback addresses that nobody listens at, each another one.
func Addrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// Port returns the PORT setting of an address of Addrs.
func Port(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // it is one
	return "PORT=" + port
}

// Process is a server that runs.
type Process struct{ cmd *exec.Cmd }

// Start runs a program and waits until it says at a URL that it is ready. The
// settings are besides the environment of this process.
func Start(ctx context.Context, ready string, env []string, program string, args ...string) (*Process, error) {
	p := &Process{exec.Command(program, args...)}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), env...), os.Stderr
	// In a group of its own it does not get the terminal's Ctrl-C: Stop ends it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for range 1000 {
		if a, err := http.Get(ready); err == nil {
			_ = a.Body.Close() // nothing is read of it
			if a.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), p.Stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil, errors.Join(fmt.Errorf("%s %s does not become ready", filepath.Base(program), strings.Join(args, " ")), p.Stop())
}

// Stop shuts it down in order.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	return p.cmd.Wait()
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Memory returns the resident memory of a process in kB.
func Memory(pid int) (kB int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if f := strings.Fields(rest); len(f) > 0 {
		return strconv.ParseInt(f[0], 10, 64)
	}
	return 0, fmt.Errorf("process %d has ended", pid)
}

// Ticks a second are what proc_pid_stat(5) and proc_stat(5) count in, on every
// Linux that Go runs on.
const Ticks = 100

// CPU returns the processor time that a process has had so far.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// What follows the name begins with the state, field 3; utime and stime are
	// 14 and 15.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d has no times", pid)
	}
	var sum int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * (time.Second / Ticks), nil
}

// API is that of a server.
type API struct {
	Addr   string
	Token  string       // "": nobody logs in
	Client *http.Client // nil is http.DefaultClient
}

// StatusError is an answer that says no.
type StatusError struct {
	Request string
	Status  int
	Body    []byte
}

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("%s: %d %s", e.Request, e.Status, e.Body) }

// Do makes one request, with in as JSON if it is not nil, and reads the JSON of
// the answer into out if that is not nil. Errors: StatusError unless the status
// is one of success.
func (a *API) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://"+a.Addr+path, body)
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	if a.Token != "" {
		q.Header.Set("Authorization", "Bearer "+a.Token)
	}
	client := a.Client
	if client == nil {
		client = http.DefaultClient
	}
	answer, err := client.Do(q)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		return &StatusError{method + " " + path, answer.StatusCode, content}
	}
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(content, out)
}

// Model makes a device model and returns its id.
func (a *API) Model(ctx context.Context, code string) (int64, error) {
	var it struct{ ID int64 }
	err := a.Do(ctx, "POST", "/api/device-models", map[string]any{"code": code, "name": "Board"}, &it)
	return it.ID, err
}

// Device makes a device of a model that sends lines under an entity id, and
// returns its id.
func (a *API) Device(ctx context.Context, model int64, entity string) (int64, error) {
	var it struct{ ID int64 }
	config := fmt.Sprintf(`{"deviceName":%q,"deviceEntityId":%[1]q}`, entity)
	err := a.Do(ctx, "POST", "/api/devices", map[string]any{"device_model_id": model, "config": config}, &it)
	return it.ID, err
}

// Devices makes devices board_0 to board_n-1 and returns their ids.
func (a *API) Devices(ctx context.Context, n int) (ids []int64, err error) {
	model, err := a.Model(ctx, "board")
	for i := 0; err == nil && i < n; i++ {
		var id int64
		id, err = a.Device(ctx, model, fmt.Sprintf("board_%d", i))
		ids = append(ids, id)
	}
	return ids, err
}
