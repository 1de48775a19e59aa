//go:build linux

// Command history measures the history: how fast lines are sealed, how fast
// they are found again, and what they take on the disk. What a figure is worth
// shows in its ratio to a floor that is measured in the same run: for sealing,
// to compress the same text in pieces of the same size and write it to a file;
// for reading, to read and decompress two of those pieces. See docs/PERFORMANCE.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/metrics"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/sqlstore"
)

const (
	fleet   = 200
	perSend = 10  // lines of one batch
	piece   = 512 // lines that the floor compresses at once
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "history:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("history", flag.ContinueOnError)
	flags.SetOutput(stderr)
	sizes := flags.String("lines", "500000,5000000", "numbers of lines to measure with, one after the other")
	profile := flags.String("cpuprofile", "", "`file` for a profile of the processor's time")
	dir := flags.String("dir", "", "`directory` for the data; default: a temporary one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if *dir == "" {
		temporary, err := os.MkdirTemp("", "signalbox-history-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		*dir = temporary
	}
	var columns []result
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < fleet*perSend {
			return fmt.Errorf("%q is not a number of lines", text)
		}
		r, err := measure(ctx, filepath.Join(*dir, text), n, stderr)
		if err != nil {
			return err
		}
		columns = append(columns, r)
	}
	return table(stdout, columns)
}

// result is what was measured with one number of lines.
type result struct {
	lines                  int
	raw                    float64 // bytes of a line as it was sent
	floorSeal, seal        float64 // lines/s
	cpu                    float64 // seconds of the processors for a million lines sealed
	floorRead              time.Duration
	newest, common         reading
	rare, rareFleet        reading
	substring, fleetNewest reading
	perLine                float64 // bytes on the disk
	memory                 uint64  // bytes of the heap while sealing, at most
}

// reading is what one query takes.
type reading struct {
	took time.Duration // the median
	cpu  time.Duration // of all processors, the mean; it hardly depends on what else the machine does
}

const (
	warmUp = 5 // readings that are not measured: a server that runs has connections and statements at hand
	reads  = 31
)

func table(out io.Writer, columns []result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, f func(result) string) {
		fmt.Fprint(w, name, "\t")
		for _, c := range columns {
			fmt.Fprint(w, f(c), "\t")
		}
		fmt.Fprintln(w)
	}
	against := func(v reading, floor time.Duration) string {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		return fmt.Sprintf("%.2f ms (%.1fx), %.2f ms", ms(v.took), float64(v.took)/float64(floor), ms(v.cpu))
	}
	row("lines", func(r result) string { return fmt.Sprintf("%.1f M", float64(r.lines)/1e6) })
	row("sealed", func(r result) string { return fmt.Sprintf("%.0f k/s (%.2fx)", r.seal/1e3, r.seal/r.floorSeal) })
	row("processor time of a line sealed", func(r result) string { return fmt.Sprintf("%.1f µs", r.cpu) })
	row("newest 1000 of a device", func(r result) string { return against(r.newest, r.floorRead) })
	row("a common word of a device, newest 1000", func(r result) string { return against(r.common, r.floorRead) })
	row("a rare word of a device", func(r result) string { return against(r.rare, r.floorRead) })
	row("a rare text of a device, no word", func(r result) string { return against(r.substring, r.floorRead) })
	row("newest 1000 of the fleet", func(r result) string { return against(r.fleetNewest, r.floorRead) })
	row("a rare word of the fleet", func(r result) string { return against(r.rareFleet, r.floorRead) })
	row("on the disk, of a line sent", func(r result) string { return fmt.Sprintf("%.1f of %.0f bytes", r.perLine, r.raw) })
	row("heap while sealing", func(r result) string { return fmt.Sprintf("%d MiB", r.memory>>20) })
	return w.Flush()
}

// words is the vocabulary, used with a Zipf distribution.
var words = func() (w []string) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 4000 {
		b := make([]byte, 3+r.IntN(8))
		for i := range b {
			b[i] = "etaoinshrdlucmfwyp"[r.IntN(18)]
		}
		w = append(w, string(b))
	}
	w[0], w[1], w[2] = "connected", "timeout", "value"
	return w
}()

// text makes messages of about 165 bytes.
type text struct {
	r *rand.Rand
	z *rand.Zipf
	b []byte
}

func newText(seed uint64) *text {
	r := rand.New(rand.NewPCG(seed, 2))
	return &text{r: r, z: rand.NewZipf(r, 1.2, 4, uint64(len(words)-1))}
}

func (t *text) message(i int) []byte {
	tags := [...]string{"wifi", "mqtt_client", "sensor_hub", "ota", "power", "main", "esp-tls", "heap"}
	t.b = fmt.Appendf(t.b[:0], "%c (%d) %s:", "IIIIIIIWDE"[t.r.IntN(10)], i*137, tags[t.r.IntN(len(tags))])
	for len(t.b) < 155 {
		switch t.r.IntN(8) {
		case 0:
			t.b = fmt.Appendf(t.b, " 0x%08x", t.r.Uint32())
		case 1:
			t.b = fmt.Appendf(t.b, " %d", t.r.IntN(100000))
		default:
			t.b = append(append(t.b, ' '), words[t.z.Uint64()]...)
		}
	}
	return t.b
}

func key(i int) string { return fmt.Sprintf("dev%05d", i) }

func measure(ctx context.Context, dir string, lines int, progress io.Writer) (r result, err error) {
	r.lines = lines
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	if r.floorSeal, r.floorRead, err = floor(filepath.Join(dir, "floor"), min(lines, 500_000)); err != nil {
		return r, err
	}
	quiet := slog.New(slog.DiscardHandler)
	server, err := nats.StartServer(nats.ServerOptions{Dir: filepath.Join(dir, "nats"), Sync: 10 * time.Second, Log: quiet})
	if err != nil {
		return r, err
	}
	defer server.Close()
	journal, err := nats.OpenJournal(ctx, server, nats.JournalOptions{Log: quiet})
	if err != nil {
		return r, err
	}
	defer journal.Close()
	fmt.Fprintf(progress, "%d lines: writing the journal\n", lines)
	if r.raw, err = write(ctx, journal, lines); err != nil {
		return r, err
	}

	fmt.Fprintf(progress, "%d lines: sealing\n", lines)
	path := filepath.Join(dir, "history.db")
	chunks, err := sqlstore.OpenHistory(ctx, path)
	if err != nil {
		return r, err
	}
	defer chunks.Close()
	sealer := logs.NewSealer(journal, chunks, logs.SealerOptions{MaxAge: 2 * time.Second}, prometheus.NewRegistry(), quiet)
	sealing, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	begun, used := time.Now(), processorTime()
	go func() { ended <- sealer.Run(sealing) }()
	_, newest, err := journal.Bounds(ctx)
	if err != nil {
		cancel()
		return r, err
	}
	// What the last blocks wait for is not their sealing: it counts up to 95 %.
	mark := newest - newest/20
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for sealer.Held() < newest && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		if r.seal == 0 && sealer.Held() >= mark {
			done := float64(lines) * float64(sealer.Held()) / float64(newest)
			r.seal = done / time.Since(begun).Seconds()
			r.cpu = (processorTime() - used).Seconds() / done * 1e6
		}
		if metrics.Read(heap); heap[0].Value.Uint64() > r.memory {
			r.memory = heap[0].Value.Uint64()
		}
	}
	u, err := chunks.Usage(ctx, nil)
	if err != nil {
		cancel()
		return r, err
	}
	fmt.Fprintf(progress, "%d lines: %d chunks, %d bytes; reading\n", lines, u.Chunks, u.Bytes)
	store := logs.NewStore(journal, chunks, sealer, prometheus.NewRegistry(), quiet)
	defer func() { cancel(); <-ended }()

	one := []string{key(fleet / 2)}
	read := func(q logs.Query, want int) (r reading, err error) {
		q.Backward = true
		if q.Limit == 0 {
			q.Limit = 1000
		}
		var took []time.Duration
		var used time.Duration
		for i := range warmUp + reads {
			if i == warmUp {
				took, used = nil, processorTime()
			}
			start := time.Now()
			found, err := store.Read(ctx, q)
			if err != nil {
				return r, err
			}
			took = append(took, time.Since(start))
			if len(found.Lines) != want {
				return r, fmt.Errorf("%+v found %d lines, not %d", q, len(found.Lines), want)
			}
		}
		r.cpu = (processorTime() - used) / reads
		slices.Sort(took)
		r.took = took[len(took)/2]
		return r, nil
	}
	for _, m := range []struct {
		into *reading
		q    logs.Query
		want int
	}{
		{&r.newest, logs.Query{Devices: one}, 1000},
		{&r.common, logs.Query{Devices: one, Filter: logs.Filter{Pattern: "connected"}}, 1000},
		{&r.rare, logs.Query{Devices: one, Filter: logs.Filter{Pattern: needleOf(fleet / 2)}}, 1},
		{&r.substring, logs.Query{Devices: one, Filter: logs.Filter{Pattern: "*" + needleOf(fleet / 2)[1:8] + "*"}}, 1},
		{&r.fleetNewest, logs.Query{}, 1000},
		{&r.rareFleet, logs.Query{Filter: logs.Filter{Pattern: needleOf(fleet / 2)}}, 1},
	} {
		if *m.into, err = read(m.q, m.want); err != nil {
			return r, err
		}
	}
	if err := chunks.Close(); err != nil { // the log of changes goes into the file
		return r, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return r, err
	}
	r.perLine = float64(info.Size()) / float64(lines)
	return r, os.RemoveAll(dir)
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// needleOf is a word that one line of the device has and no other line.
func needleOf(device int) string { return fmt.Sprintf("needle%05dzz", device) }

// write fills the journal and returns the mean size of a line.
func write(ctx context.Context, journal *nats.Journal, lines int) (raw float64, err error) {
	var texts [fleet]*text
	for i := range texts {
		texts[i] = newText(uint64(i))
	}
	decoder := logs.NewDecoder("entity_id")
	failed := make(chan error, 1)
	bytes, batches := 0, lines/perSend
	done := make(chan struct{}, batches)
	at := time.Now().Add(-time.Hour)
	var payload []byte
	var entries []logs.Entry
	for i := range batches {
		d := i % fleet
		payload = payload[:0]
		for n := range perSend {
			m := texts[d].message(i/fleet*perSend + n)
			if n == 3 && i/fleet == batches/fleet/3 {
				m = append(m, " "+needleOf(d)...)
			}
			payload = fmt.Appendf(payload, `{"entity_id":"sim-%04d","message":"%s"}`+"\n", d, m)
		}
		bytes += len(payload)
		entries = decoder.Decode(entries[:0], payload, at.Add(time.Duration(i)*10*time.Microsecond), func(logs.Reason) {})
		journal.Append(logs.Batch{Device: key(d), Body: logs.EncodeBody(at.Add(time.Duration(i)*10*time.Microsecond), entries)}, func(_ uint64, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
			done <- struct{}{}
		})
	}
	for range batches {
		select {
		case <-done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	select {
	case err := <-failed:
		return 0, err
	default:
	}
	return float64(bytes) / float64(batches*perSend), nil
}

// floor compresses the same text in pieces and writes them to a file, and reads
// two pieces of it.
func floor(path string, lines int) (perSecond float64, read time.Duration, err error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, 0, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, 0, err
	}
	defer dec.Close()
	var pieces [][]byte
	t := newText(99)
	for at := 0; at < lines; at += piece {
		var b []byte
		for i := range piece {
			b = append(append(b, t.message(at+i)...), '\n')
		}
		pieces = append(pieces, b)
	}
	f, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	start := time.Now()
	var out []byte
	var ends []int64
	end := int64(0)
	for _, b := range pieces {
		out = enc.EncodeAll(b, out[:0])
		if _, err := f.Write(out); err != nil {
			return 0, 0, err
		}
		end += int64(len(out))
		ends = append(ends, end)
	}
	if err := f.Sync(); err != nil {
		return 0, 0, err
	}
	perSecond = float64(len(pieces)*piece) / time.Since(start).Seconds()
	var took []time.Duration
	for range 100 {
		start := time.Now()
		for i := range 2 {
			at := len(ends) - 3 + i
			b := make([]byte, ends[at+1]-ends[at])
			if _, err := f.ReadAt(b, ends[at]); err != nil {
				return 0, 0, err
			}
			if _, err := dec.DecodeAll(b, nil); err != nil {
				return 0, 0, err
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return perSecond, took[len(took)/2], nil
}
