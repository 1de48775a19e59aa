//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"signalbox/bench/target"
)

// server is one of the two that are compared.
type server interface {
	name() string
	pid() int
	stop() error
	streams() string                                             // the address of the event streams
	prepare(ctx context.Context, devices int) error              // makes what is missing of devices 0 to devices-1
	request(stream string, device int) string                    // of HTTP, opens a stream
	follow(ctx context.Context, stream string, device int) error // subscribes an open stream to its device
	shares() bool                                                // whether a stream can follow several devices
	publishing(run string) (addr string, p protocol)
}

// process is a child that does not outlive this process, however that ends.
type process struct {
	cmd    *exec.Cmd
	output string // a file
}

// start must be called on the main goroutine, which has the main thread to
// itself: the kernel sends the signal when the thread that started the child ends.
func start(output string, env []string, program string, args ...string) (*process, io.ReadCloser, error) {
	file, err := os.Create(output)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = file
	// In a group of its own it does not get the terminal's Ctrl-C: we stop it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, nil, err
	}
	return &process{cmd, output}, stdout, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process, by force when it takes too long.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	kill := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.cmd.Wait()
	if err == nil {
		return nil
	}
	said, _ := os.ReadFile(p.output)
	return fmt.Errorf("%s: %w\n%s", filepath.Base(p.cmd.Path), err, said[max(0, len(said)-2000):])
}

// floorServer is the floor in a process of its own.
type floorServer struct {
	*process
	addr string
}

func startFloor(dir string) (server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, stdout, err := start(filepath.Join(dir, "floor.log"), nil, self, floorArg)
	if err != nil {
		return nil, err
	}
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return &floorServer{p, addr[:len(addr)-1]}, nil
}

func (f *floorServer) name() string                              { return "floor" }
func (f *floorServer) streams() string                           { return f.addr }
func (f *floorServer) shares() bool                              { return false }
func (f *floorServer) prepare(context.Context, int) error        { return nil }
func (f *floorServer) follow(context.Context, string, int) error { return nil }
func (f *floorServer) publishing(string) (string, protocol)      { return f.addr, posts() }

func (f *floorServer) request(_ string, device int) string {
	return "GET /events?topic=" + entity(device) + " HTTP/1.1\r\nHost: floor\r\n\r\n"
}

// signalbox is Signalbox in a process and a directory of its own.
type signalbox struct {
	*process
	api     *target.API
	mqtt    string
	model   int64
	devices []int64 // ids
}

func startSignalbox(ctx context.Context, program, dir string) (server, error) {
	addrs, err := target.Addrs(3)
	if err != nil {
		return nil, err
	}
	s := &signalbox{
		api:  &target.API{Addr: addrs[0], Client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}},
		mqtt: addrs[2],
	}
	var stdout io.ReadCloser
	s.process, stdout, err = start(filepath.Join(dir, "signalbox.log"), []string{
		"HOST=127.0.0.1", target.Port(addrs[0]), "INTERNAL_LISTEN=" + addrs[1], "MQTT_LISTEN=" + s.mqtt,
		"DATA_DIR=" + filepath.Join(dir, "data"), "LOG_LEVEL=warn", "MAX_STREAMS=20000",
	}, program, "serve")
	if err != nil {
		return nil, err
	}
	go io.Copy(io.Discard, stdout) // ends with the process
	for began := time.Now(); ; {
		err = s.api.Do(ctx, http.MethodGet, "/health/readyz", nil, nil)
		if err == nil {
			break
		}
		if time.Since(began) > 20*time.Second || ctx.Err() != nil {
			return nil, errors.Join(err, s.stop())
		}
		sleep(ctx, 20*time.Millisecond)
	}
	if s.model, err = s.api.Model(ctx, "bench"); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *signalbox) name() string    { return "signalbox" }
func (s *signalbox) streams() string { return s.api.Addr }

func (s *signalbox) shares() bool { return true }

func (s *signalbox) publishing(run string) (string, protocol) { return s.mqtt, mqtt(run) }

func (s *signalbox) request(stream string, _ int) string {
	return "GET /api/sse/stream?request_id=" + stream + " HTTP/1.1\r\nHost: " + s.api.Addr + "\r\nAccept: text/event-stream\r\n\r\n"
}

func (s *signalbox) prepare(ctx context.Context, devices int) error {
	for len(s.devices) < devices {
		id, err := s.api.Device(ctx, s.model, entity(len(s.devices)))
		if err != nil {
			return err
		}
		s.devices = append(s.devices, id)
	}
	return nil
}

func (s *signalbox) follow(ctx context.Context, stream string, device int) error {
	body := map[string]any{"request_id": stream, "device_id": s.devices[device]}
	return s.api.Do(ctx, http.MethodPost, "/api/device-logs/subscribe", body, nil)
}

func (s *signalbox) stop() error {
	s.api.Client.CloseIdleConnections()
	return s.process.stop()
}

// sleep returns early when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
