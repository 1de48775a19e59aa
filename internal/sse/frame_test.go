package sse_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"signalbox/internal/sse"
)

func TestFrameBytes(t *testing.T) {
	f := func(frame *sse.Frame, name, block, payload string) {
		t.Helper()
		if frame.Name != name {
			t.Errorf("name %q, want %q", frame.Name, name)
		}
		if got := string(frame.Block()); got != block {
			t.Errorf("%s: block %q, want %q", name, got, block)
		}
		if got := string(frame.Payload()); got != payload {
			t.Errorf("%s: payload %q, want %q", name, got, payload)
		}
		if frame.Size() < len(frame.Chunk()) {
			t.Errorf("%s: counts for %d bytes and holds %d", name, frame.Size(), len(frame.Chunk()))
		}
		if last := name == "end"; frame.Last != last {
			t.Errorf("%s: last is %v", name, frame.Last)
		}
	}
	f(sse.Event("device-logs", "e1-7", []byte(`{"a":`), []byte(`1}`)), "device-logs",
		"id: e1-7\ndata: {\"type\":\"device-logs\",\"payload\":{\"a\":1}}\n\n", `{"a":1}`)
	f(sse.Event("x", "", []byte("{}")), "x", "data: {\"type\":\"x\",\"payload\":{}}\n\n", "{}")
	f(sse.Event("", "", []byte("0")), "", "data: {\"type\":\"\",\"payload\":0}\n\n", "0")
	f(sse.Event("a\"b\\\né", "", []byte("null")), "a\"b\\\né", "data: {\"type\":\"a\\\"b\\\\\\né\",\"payload\":null}\n\n", "null")
	f(sse.Text("e-1", "a\nb\r\n\rc"), "text", "id: e-1\ndata: a\ndata: b\ndata: \ndata: c\n\n", "")
	f(sse.Text("", ""), "text", "data: \n\n", "")
	f(sse.Control("ready", ""), "ready", "event: ready\ndata:\n\n", "")
	f(sse.Control("rejected", `{"status":403}`), "rejected", "event: rejected\ndata: {\"status\":403}\n\n", "")
	f(sse.Heartbeat(), "heartbeat", ": heartbeat\n\n", "")
	f(sse.Mark("e1-7~3.a"), "mark", "id: e1-7~3.a\n\n", "")
	f(sse.Retry(0), "retry", "retry: 0\n\n", "")
	f(sse.Retry(2500*time.Millisecond), "retry", "retry: 2500\n\n", "")
	f(sse.End(), "end", "", "")
}

// A stream of chunks is what an HTTP/1.1 client makes of it: the blocks, and
// an end.
func TestFrameChunks(t *testing.T) {
	var frames []*sse.Frame
	for _, size := range []int{0, 1, 15, 16, 255, 256, 4095, 4096, 70_000, 1 << 20} {
		frames = append(frames, sse.Event("x", "e-1", []byte(`"`), bytes.Repeat([]byte("y"), size), []byte(`"`)))
	}
	frames = append(frames, sse.Retry(time.Second), sse.Control("ready", ""), sse.Heartbeat(), sse.Mark("e-2"))
	var chunks, blocks bytes.Buffer
	for _, f := range frames {
		got, err := io.ReadAll(httputil.NewChunkedReader(io.MultiReader(bytes.NewReader(f.Chunk()), strings.NewReader("0\r\n\r\n"))))
		if err != nil || !bytes.Equal(got, f.Block()) {
			t.Errorf("%s: chunk reads as %.40q, %v; want %.40q", f.Name, got, err, f.Block())
		}
		chunks.Write(f.Chunk())
		blocks.Write(f.Block())
	}
	chunks.Write(sse.End().Chunk())
	wire := bufio.NewReader(&chunks)
	got, err := io.ReadAll(httputil.NewChunkedReader(wire))
	if err != nil || !bytes.Equal(got, blocks.Bytes()) {
		t.Errorf("the chunks together read as %d bytes, %v; want %d", len(got), err, blocks.Len())
	}
	// The end of the empty trailer is all that httputil leaves.
	if rest, err := io.ReadAll(wire); err != nil || string(rest) != "\r\n" {
		t.Errorf("%q is left behind the last chunk, %v", rest, err)
	}
}

func TestEventNameIsQuotedAsJSON(t *testing.T) {
	for _, name := range []string{"", "plain", `"`, `\`, "\x00", "\x1f", "\x7f", "é", "\u2028", "\xff", "<a&b>"} {
		block := string(sse.Event(name, "", []byte("1")).Block())
		text, ok := strings.CutPrefix(block, "data: ")
		if !ok || strings.Count(block, "\n") != 2 {
			t.Errorf("%q: not one line of data: %q", name, block)
		}
		var got struct{ Type string }
		if err := json.Unmarshal([]byte(text), &got); err != nil || got.Type != strings.ToValidUTF8(name, "\ufffd") {
			t.Errorf("%q: reads as %q, %v", name, got.Type, err)
		}
	}
}
