//go:build linux

// Command gateway measures what an SSE gateway adds: the latency of lines that
// each go to one of many streams, through a gateway and, as the floor, over streams
// that serve holds itself, in turn in the same run; and the memory of idle streams
// at the gateway. See docs/PERFORMANCE.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"signalbox/bench/target"
)

func main() { target.Main("gateway", run) }

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	streams := flags.Int("streams", 200, "streams, each of a device of its own")
	rate := flags.Int("rate", 1000, "lines a second, over all streams")
	piece := flags.Duration("piece", 5*time.Second, "length of one measurement")
	rounds := flags.Int("rounds", 3, "times that each way is measured")
	idle := flags.Int("idle", 5000, "idle streams whose memory is measured")
	rabbit := flags.String("rabbitmq", "", "URL of a RabbitMQ that carries the events to the gateway (default: HTTP)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "signalbox-gateway-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := target.Build(ctx, dir)
	if err != nil {
		return err
	}
	addrs, err := target.Addrs(3)
	if err != nil {
		return err
	}
	b := &bench{serve: &target.API{Addr: addrs[0]}, mqtt: addrs[1], gateway: addrs[2]}
	g, err := target.Start(ctx, "http://"+b.gateway+"/readyz", []string{
		"HOST=127.0.0.1", target.Port(b.gateway), "CALLBACK_URL=http://" + b.serve.Addr + "/api/sse/callback", "CALLBACK_SECRET=s", "LOG_LEVEL=error", "RABBITMQ_URL=" + *rabbit,
	}, program, "gateway")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Stop()) }()
	s, err := target.Start(ctx, "http://"+b.serve.Addr+"/health/readyz", []string{
		"HOST=127.0.0.1", target.Port(b.serve.Addr), "DATA_DIR=" + dir, "MQTT_LISTEN=" + b.mqtt, "MQTT_AUTH=off", "INTERNAL_LISTEN=", "LOG_LEVEL=error", "MAX_STREAMS=50000",
		"SSE_GATEWAY_URL=http://" + b.gateway, "SSE_CALLBACK_SECRET=s", "RABBITMQ_URL=" + *rabbit,
	}, program, "serve")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if b.devices, err = b.serve.Devices(ctx, *streams); err != nil {
		return err
	}
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + b.mqtt).SetClientID("bench"))
	if t := client.Connect(); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	defer client.Disconnect(100)
	ways := []struct {
		name, addr string
		p50, p99   []float64
	}{{name: "serve", addr: b.serve.Addr}, {name: "gateway", addr: b.gateway}}
	for n := range *rounds + 1 {
		for i := range ways {
			took, err := b.measure(ctx, client, ways[i].addr, *rate, *piece)
			if err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
			if n > 0 { // the first warms up
				ways[i].p50 = append(ways[i].p50, at(took, 0.5))
				ways[i].p99 = append(ways[i].p99, at(took, 0.99))
			}
		}
	}
	fmt.Fprintf(stdout, "%d lines/s to %d streams\n", *rate, *streams)
	for _, w := range ways {
		fmt.Fprintf(stdout, "%-8s p50 %.2f ms, p99 %.2f ms; %.2f and %.2f of the floor\n", w.name, at(w.p50, 0.5), at(w.p99, 0.5), at(w.p50, 0.5)/at(ways[0].p50, 0.5), at(w.p99, 0.5)/at(ways[0].p99, 0.5))
	}
	before, err := memories(g, s)
	if err != nil {
		return err
	}
	open, err := b.open(ctx, b.gateway, "idle", *idle, nil)
	if err != nil {
		return err
	}
	defer open()
	select {
	case <-time.After(5 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := memories(g, s)
	if err != nil {
		return err
	}
	each := func(n int) float64 { return float64(after[n]-before[n]) / float64(*idle) }
	fmt.Fprintf(stdout, "%d idle streams at the gateway: %.1f kB each there, and %.1f kB in serve\n", *idle, each(0), each(1))
	return nil
}

// at returns the value below which that part of all is.
func at(v []float64, part float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(int(part*float64(len(v))), len(v)-1)]
}

type bench struct {
	serve         *target.API
	mqtt, gateway string
	devices       []int64
}

// memories returns the resident memory of processes in kB.
func memories(processes ...*target.Process) (kB []int64, err error) {
	for _, p := range processes {
		n, err := target.Memory(p.PID())
		if err != nil {
			return nil, err
		}
		kB = append(kB, n)
	}
	return kB, nil
}

// open opens streams, one after the other; each goes on with read, if that is
// given, from behind ready. The function that it returns closes them and waits.
func (b *bench) open(ctx context.Context, addr, name string, n int, read func(*bufio.Scanner)) (func(), error) {
	var conns []net.Conn
	var readers sync.WaitGroup
	end := func() {
		for _, c := range conns {
			c.Close()
		}
		readers.Wait()
	}
	for i := range n {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			conns = append(conns, c)
			_, err = fmt.Fprintf(c, "GET /api/sse/stream?request_id=%s%d HTTP/1.1\r\nHost: %s\r\n\r\n", name, i, addr)
		}
		if err != nil {
			end()
			return nil, err
		}
		lines := bufio.NewScanner(c)
		lines.Buffer(make([]byte, 0, 1024), 1<<20)
		for lines.Scan() && lines.Text() != "event: ready" {
		}
		if lines.Err() != nil || lines.Text() != "event: ready" {
			end()
			return nil, fmt.Errorf("stream %d was not opened: %w", i, cmpErr(lines.Err(), ctx.Err()))
		}
		if read != nil {
			readers.Go(func() { read(lines) })
		}
	}
	return end, nil
}

func cmpErr(errs ...error) error { return errors.Join(append(errs, io.ErrUnexpectedEOF)...) }

// measure sends lines, each to one stream, and returns how long each took, in ms.
func (b *bench) measure(ctx context.Context, client mqtt.Client, addr string, rate int, length time.Duration) ([]float64, error) {
	var mu sync.Mutex
	var took []float64
	end, err := b.open(ctx, addr, "r", len(b.devices), func(lines *bufio.Scanner) {
		for lines.Scan() {
			_, rest, ok := strings.Cut(lines.Text(), "at:")
			if !ok {
				continue
			}
			text, _, _ := strings.Cut(rest, ":")
			if sent, err := strconv.ParseInt(text, 10, 64); err == nil {
				mu.Lock()
				took = append(took, float64(time.Now().UnixNano()-sent)/1e6)
				mu.Unlock()
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer end()
	for i, d := range b.devices {
		if err := b.serve.Do(ctx, "POST", "/api/device-logs/subscribe", map[string]any{"request_id": fmt.Sprint("r", i), "device_id": d}, nil); err != nil {
			return nil, err
		}
	}
	total := int(length.Seconds() * float64(rate))
	begin := time.Now()
	for n := range total {
		due := begin.Add(time.Duration(n) * time.Second / time.Duration(rate))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		// What is late counts from when it was due.
		client.Publish("iotsupport/logsink", 0, false, fmt.Sprintf(`{"entity_id":"board_%d","message":"at:%d:"}`, n%len(b.devices), due.UnixNano()))
	}
	for range 500 {
		mu.Lock()
		got := len(took)
		mu.Unlock()
		if got >= total {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(took) < total {
		return nil, fmt.Errorf("%d of %d lines arrived", len(took), total)
	}
	return slices.Clone(took), nil
}
