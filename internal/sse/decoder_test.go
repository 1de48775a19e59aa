package sse_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"signalbox/internal/sse"
)

// heard is all that a reader learns from a stream.
type heard struct {
	Events []string // "name|data|last id"
	LastID string
	Retry  time.Duration
	Err    error
}

func hear(r io.Reader, lastID string) heard {
	d := sse.NewDecoder(r, lastID)
	var h heard
	for {
		m, err := d.Next()
		if err != nil {
			h.LastID, h.Retry, h.Err = d.LastID(), d.Retry(), err
			return h
		}
		h.Events = append(h.Events, fmt.Sprintf("%s|%s|%s", m.Name, m.Data, d.LastID()))
	}
}

func TestDecoder(t *testing.T) {
	f := func(stream, lastID string, retry time.Duration, events ...string) {
		t.Helper()
		want := heard{Events: events, LastID: lastID, Retry: retry, Err: io.EOF}
		check := func(how string, r io.Reader) {
			t.Helper()
			if diff := cmp.Diff(want, hear(r, "start"), cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })); diff != "" {
				t.Errorf("%q %s (-want +got):\n%s", stream, how, diff)
			}
		}
		check("at once", strings.NewReader(stream))
		check("byte by byte", iotest.OneByteReader(strings.NewReader(stream)))
		for i := range len(stream) {
			check(fmt.Sprintf("split at %d", i), io.MultiReader(strings.NewReader(stream[:i]), strings.NewReader(stream[i:])))
		}
	}
	f("", "start", 0)
	f("data: a\n\n", "start", 0, "|a|start")
	f("data:a\n\n", "start", 0, "|a|start")
	f("data:  a\n\n", "start", 0, "| a|start") // one space goes
	f("data: a\ndata: b\n\n", "start", 0, "|a\nb|start")
	f("data: YHOO\ndata: +2\ndata: 10\n\n", "start", 0, "|YHOO\n+2\n10|start")
	f("data\n\ndata\ndata\n\ndata:", "start", 0, "|\n|start") // the standard's own example; the first is not dispatched
	f("data:test\n\ndata: test\n\n", "start", 0, "|test|start", "|test|start")
	f("data: a\r\n\r\ndata: b\r\n\r\n", "start", 0, "|a|start", "|b|start")
	f("data: a\r\ndata: b\n\r\n", "start", 0, "|a\nb|start")
	f("\xef\xbb\xbfdata: a\n\n", "start", 0, "|a|start")
	f("\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", "start", 0)              // only the first is a mark
	f("\n\xef\xbb\xbfdata: a\n\ndata: b\n\n", "start", 0, "|b|start") // and only at the start
	f(": comment\n\n:\n\n: data: x\n\ndata: a\n: between\ndata: b\n\n", "start", 0, "|a\nb|start")
	f("event: e\ndata: a\n\ndata: b\n\n", "start", 0, "e|a|start", "|b|start") // the name holds for one event
	f("event: e\nevent: f\ndata: a\n\n", "start", 0, "f|a|start")
	f("event: e\n\n", "start", 0)
	f("event: ready\ndata:\n\n", "start", 0, "ready||start") // ours: a control event
	f("data:\n\n", "start", 0)
	f("id: 1\ndata: a\n\ndata: b\n\n", "1", 0, "|a|1", "|b|1")
	f("id: 1\n\n", "1", 0)
	f("id: 1\ndata: a\n\nid\ndata: b\n\n", "", 0, "|a|1", "|b|")
	f("id: 1\nid: 2\ndata: a\n\n", "2", 0, "|a|2")
	f("id: 1\x00\ndata: a\n\n", "start", 0, "|a|start")
	f("id: 1\nid: 2\x00\ndata: a\n\n", "1", 0, "|a|1")
	f("id: e-1~2.a\n\n: x\n\nid: 3\ndata: lost", "e-1~2.a", 0) // the last block has no end
	f("id: 3\ndata: lost\n", "start", 0)
	f("retry: 1500\n\n", "start", 1500*time.Millisecond)
	f("retry: 1500\nretry: x\nretry: -1\nretry: +1\nretry: 1.5\nretry:\nretry: 99999999999\n\n", "start", 1500*time.Millisecond)
	f("unknown: x\nDATA: x\n data: x\ndata : x\ndata: a\n\n", "start", 0, "|a|start")
	f("data: a:b: c\n\n", "start", 0, "|a:b: c|start")
	f("data: a\x00b\xff\n\n", "start", 0, "|a\x00b\xff|start")
	f("\n\n\ndata: a\n\n\n\n", "start", 0, "|a|start")
}

func TestDecoderLongLines(t *testing.T) {
	for _, n := range []int{32<<10 - 7, 32 << 10, 32<<10 + 1, 100_000, 1 << 20} {
		text := strings.Repeat("x", n)
		for _, end := range []string{"\n", "\r\n"} {
			h := hear(strings.NewReader("\xef\xbb\xbfdata: "+text+end+end+"data: b"+end+end), "")
			if len(h.Events) != 2 || h.Events[0] != "|"+text+"|" || h.Events[1] != "|b|" {
				t.Errorf("a line of %d bytes: %d events, %v", n, len(h.Events), h.Err)
			}
		}
	}
}

func TestDecoderBounds(t *testing.T) {
	line := "data:" + strings.Repeat("x", 1<<20) + "\n"
	f := func(stream io.Reader, want error, events int) {
		t.Helper()
		if h := hear(stream, ""); !errors.Is(h.Err, want) || len(h.Events) != events {
			t.Errorf("%d events, %v; want %d, %v", len(h.Events), h.Err, events, want)
		}
	}
	lines := func(n int) io.Reader { return strings.NewReader(strings.Repeat(line, n) + "\n") }
	f(lines(15), io.EOF, 1)
	f(lines(17), sse.ErrTooLong, 0)
	long := func(n int) io.Reader {
		return io.MultiReader(strings.NewReader("data:"), strings.NewReader(strings.Repeat("x", n)), strings.NewReader("\n\n"))
	}
	f(long(sse.MaxEvent-len("data:\n")), io.EOF, 1)
	f(long(sse.MaxEvent), sse.ErrTooLong, 0)

	broken := errors.New("broken")
	f(io.MultiReader(strings.NewReader("data: a\n\ndata: b\n"), iotest.ErrReader(broken)), broken, 1)
}

// What frames say, a decoder hears.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var wire bytes.Buffer
		want := heard{Err: io.EOF}
		name := rapid.StringMatching(`[a-z-]{1,12}`)
		id := rapid.StringMatching(`[a-z0-9]{1,8}-[0-9]{1,20}(~[0-9]+\.[a-z0-9]+)?`)
		for range rapid.IntRange(0, 20).Draw(t, "frames") {
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				n, payload := name.Draw(t, "name"), fmt.Sprintf("%q", rapid.StringMatching(`[ -~]*`).Draw(t, "payload"))
				if rapid.Bool().Draw(t, "with id") {
					want.LastID = id.Draw(t, "id")
					wire.Write(sse.Event(n, want.LastID, []byte(payload)).Block())
				} else {
					wire.Write(sse.Event(n, "", []byte(payload)).Block())
				}
				want.Events = append(want.Events, fmt.Sprintf(`|{"type":"%s","payload":%s}|%s`, n, payload, want.LastID))
			case 1:
				n, data := name.Draw(t, "name"), rapid.StringMatching(`( ?[!-~]+)*`).Draw(t, "data")
				wire.Write(sse.Control(n, data).Block())
				want.Events = append(want.Events, n+"|"+data+"|"+want.LastID)
			case 2:
				wire.Write(sse.Heartbeat().Block())
			case 3:
				want.LastID = id.Draw(t, "id")
				wire.Write(sse.Mark(want.LastID).Block())
			case 4:
				want.Retry = time.Duration(rapid.Int64Range(0, 1<<30).Draw(t, "retry")) * time.Millisecond
				wire.Write(sse.Retry(want.Retry).Block())
			case 5:
				wire.Write(sse.End().Block())
			}
		}
		got := hear(iotest.HalfReader(&wire), "")
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzDecoder(f *testing.F) {
	for _, s := range []string{
		"data: a\n\n", "\xef\xbb\xbfid: 1\r\nevent: x\r\ndata:\r\n\r\n", "retry: 5\n\n: c\n\nid: \x00\n\n", "data\n\ndata\ndata\n\ndata:",
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, stream []byte, at int) {
		at = max(0, min(at, len(stream)))
		whole := hear(bytes.NewReader(stream), "")
		split := hear(io.MultiReader(bytes.NewReader(stream[:at]), iotest.OneByteReader(bytes.NewReader(stream[at:]))), "")
		if diff := cmp.Diff(whole, split, cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })); diff != "" {
			t.Fatal(diff)
		}
		if strings.ContainsAny(whole.LastID, "\x00\n") || whole.Retry < 0 || !errors.Is(whole.Err, io.EOF) {
			t.Fatalf("%q, %v, %v", whole.LastID, whole.Retry, whole.Err)
		}
	})
}
