package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// told is a line of "signalbox logs --json" or "signalbox tail --json".
type told struct {
	Key       string          `json:"device_key"`
	Timestamp string          `json:"timestamp"`
	Message   string          `json:"message"`
	Level     *string         `json:"level"`
	Gap       json.RawMessage `json:"gap"`
	Doc       line            `json:"doc"`
}

// logs runs "signalbox logs" to its end and returns what it printed.
func (s *server) logs(args ...string) string {
	s.t.Helper()
	out, errs, code := s.tryLogs(args...)
	if code != 0 || errs != "" {
		s.t.Fatalf("logs %q ended with %d: %s", args, code, errs)
	}
	return out
}

func (s *server) tryLogs(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), program, append([]string{"logs"}, args...)...)
	cmd.Dir = s.t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SIGNALBOX_SERVER=" + s.url(""), "TZ=Asia/Kathmandu"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// logged is logs --json.
func (s *server) logged(args ...string) (all []told) {
	s.t.Helper()
	return toldIn(s.t, s.logs(append(args, "--json")...))
}

// toldIn reads whole lines of JSON.
func toldIn(t *testing.T, text string) (all []told) {
	t.Helper()
	for row := range strings.Lines(text) {
		if !strings.HasSuffix(row, "\n") {
			break // the rest is not whole yet
		}
		var l told
		if err := json.Unmarshal([]byte(row), &l); err != nil {
			t.Fatalf("%v in %q", err, row)
		}
		all = append(all, l)
	}
	return all
}

// spoken returns the messages of lines as text.
func spoken(printed string) (all []string) {
	for row := range strings.Lines(printed) {
		_, message, _ := strings.Cut(strings.TrimSpace(row), " | ")
		all = append(all, message)
	}
	return all
}

func TestLogs(t *testing.T) {
	s := start(t)
	hall, kitchen := s.device("hall"), s.device("kitchen")
	h, k := s.board(hall), s.board(kitchen)
	say := func(b *board, messages ...string) {
		var m bytes.Buffer
		for _, text := range messages {
			fmt.Fprintf(&m, "{\"entity_id\":%q,\"message\":%q,\"room\":7}\n", b.device.Entity, text)
		}
		b.send(m.Bytes())
	}
	say(h, "I (100) boot: one", "two")
	say(k, "E (200) wifi: three beacon timeout")
	say(h, "W (300) mqtt: four timeouts")
	say(k, "D (400) wifi: five", "I (500) wifi: six")
	all := []string{
		"I (100) boot: one", "two", "E (200) wifi: three beacon timeout", "W (300) mqtt: four timeouts", "D (400) wifi: five", "I (500) wifi: six",
	}
	f := func(want []string, args ...string) {
		t.Helper()
		if diff := cmp.Diff(want, spoken(s.logs(args...))); diff != "" {
			t.Errorf("logs %q: %s", args, diff)
		}
	}
	pick := func(at ...int) (some []string) {
		for _, i := range at {
			some = append(some, all[i])
		}
		return some
	}
	f(all, "--all")
	f(all, "hall", "KITCHEN")
	f(all, "--model", "board")
	f(all, "--all", "--since", "1h")
	f(all, "--all", "-n", "0")
	f(pick(0, 1, 3), hall.Key)
	f(pick(3), "hall", "-n1")
	f(pick(3, 4, 5), "--all", "--lines=3")
	f(pick(4, 5), "--all", "--since=1d", "-n", "2")
	f(nil, "--all", "--until", "1h")
	f(pick(1, 2, 3), "--all", "--level", "warn")
	f(pick(2, 4, 5), "--all", "--tag", "WiFi")
	f(pick(2, 3), "--all", "--grep", "timeouts?$")
	f(pick(2), "--all", "--word", "TIMEOUT")
	f(pick(2, 3), "--all", "--word", "timeout*", "-n", "2")
	f(pick(3), "--all", "--word", "timeout*", "--level", "warn", "--tag", "mqtt", "--grep", "four")

	// The forms: as tail prints them, whole documents in JSON.
	rows := s.logged("--all")
	if len(rows) != len(all) {
		t.Fatalf("%d rows", len(rows))
	}
	clock := func(at string) string {
		instant, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			t.Fatal(err)
		}
		return instant.In(time.FixedZone("", 5*3600+45*60)).Format("15:04:05.000")
	}
	if got, want := s.logs("hall", "-n", "1"), clock(rows[3].Timestamp)+" hall | W (300) mqtt: four timeouts\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	if got, want := s.logs("--all", "-n", "3"), clock(rows[3].Timestamp)+" hall    | W (300) mqtt: four timeouts\n"; !strings.HasPrefix(got, want) {
		t.Errorf("printed %q, want %q", got, want)
	}
	tail, out, _ := s.client("tail", "hall", "--json")
	eventually(t, "the tail follows", func() bool { return s.listed("").Count == 1 })
	say(h, "W (600) mqtt: seven é <\u202e>", "eight")
	eventually(t, "the tail prints", func() bool { return bytes.Count([]byte(tailOf(out)), []byte("\n")) == 2 })
	if err := tail.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tailOf(out), s.logs("hall", "-n", "2", "--json")); diff != "" {
		t.Errorf("logs and tail have two forms: %s", diff)
	}

	// Times: both ends are included.
	f(pick(2, 3), "--all", "--since", rows[2].Timestamp, "--until", rows[3].Timestamp)
	f(pick(0, 1), "--all", "--until", rows[0].Timestamp)
	f(pick(3), "--all", "--since", rows[2].Timestamp, "--until", rows[3].Timestamp, "-n", "1")

	fails := func(code int, want string, args ...string) {
		t.Helper()
		if out, errs, got := s.tryLogs(args...); got != code || out != "" || !strings.Contains(errs, want) {
			t.Errorf("logs %q ended with %d: %s%s", args, got, out, errs)
		}
	}
	fails(1, `There is no device "hell"; did you mean hall?`, "hell")
	fails(1, `There is no device model "bord"; did you mean board?`, "--model", "bord")
	fails(2, "Name at least one device")
	fails(2, "not both", "--all", "hall")
	fails(2, "--since", "--all", "--since", "noon")
	fails(2, "at least 0", "--all", "--lines=-1")
	fails(2, "not a regular expression", "--all", "--grep", "(")
	fails(2, "not both", "--all", "-f", "--until", "1h")
	fails(1, "Cannot reach http://127.0.0.1:1", "--all", "--server", "127.0.0.1:1")
}

func TestLogsOfNothing(t *testing.T) {
	s := start(t)
	if out := s.logs("--all"); out != "" { // before anything was ever said
		t.Errorf("printed %q", out)
	}
	s.device("d")
	if out := s.logs("--all", "--since", "1h", "-n", "5"); out != "" {
		t.Errorf("printed %q", out)
	}
	s.want(201, "POST", "/api/device-models", map[string]any{"code": "empty", "name": "Empty"})
	s.board(device{Entity: "d", ClientID: "x"})
	if out := s.logs("--model", "empty"); out != "" {
		t.Errorf("printed %q", out)
	}

	off := start(t, "LOGS_HISTORY=off")
	if _, errs, code := off.tryLogs("--all"); code != 1 || !strings.Contains(errs, "The server keeps no history") {
		t.Errorf("ended with %d: %s", code, errs)
	}
}

// Every line of a history of many pages comes once, in order, whichever way it
// is paged: batches of many lines of one moment are cut by the pages.
func TestLogsPagesThrough(t *testing.T) {
	s := start(t)
	devices := []device{s.device("a"), s.device("b")}
	boards := []*board{s.board(devices[0]), s.board(devices[1])}
	const lines = 12_000 // of which some pages begin within a batch
	for n := range 16 {
		boards[n%2].say(lines / 16)
	}
	f := func(want int, args ...string) {
		t.Helper()
		rows := s.logged(args...)
		if len(rows) != want {
			t.Errorf("logs %q: %d lines, want %d", args, len(rows), want)
		}
		last := map[string]int{}
		for i, l := range rows {
			if before := last[l.Key]; before != 0 && l.Doc.N != before+1 {
				t.Fatalf("logs %q: row %d is line %d after line %d", args, i, l.Doc.N, before)
			}
			last[l.Key] = l.Doc.N
		}
		for key, n := range last {
			if n != lines/2 {
				t.Errorf("logs %q: the last line of %s is %d", args, key, n)
			}
		}
	}
	f(lines, "--all", "--since", "1h")
	f(lines, "a", "b", "-n", "0")
	f(lines, "--all", "-n", "1000000")
	f(10_001, "--all", "-n", "10001")
	f(lines/2, "b", "--since", "1h")
	f(100, "--all")
	f(7001, "--all", "--since", "1h", "--grep", "^line", "-n", "7001")
}

// "signalbox logs ... | head" ends well.
func TestLogsIntoHead(t *testing.T) {
	s := start(t)
	b := s.board(s.device("a"))
	for range 6 {
		b.say(1000)
	}
	cmd := exec.Command(tool(t, "bash"), "-c", `set -o pipefail; "$0" logs a -n 0 | head -n 1`, program)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SIGNALBOX_SERVER=" + s.url("")}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), " a | line 1\n") || bytes.Count(out, []byte("\n")) != 1 {
		t.Errorf("%v: %s", err, out)
	}
}

// From the history to what is said now without a lost or repeated line, while
// lines keep coming.
func TestLogsFollow(t *testing.T) {
	s := start(t)
	devices := []device{s.device("a"), s.device("b"), s.device("c")}
	var talkers []*talker
	for i, d := range devices {
		talkers = append(talkers, s.talk(d, time.Duration(2+i)*time.Millisecond, 3, false))
	}
	eventually(t, "there is a history", func() bool { acked, _, _ := talkers[0].state(); return acked > 300 })
	read := func(file string) []told {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return toldIn(t, string(text))
	}
	follow := func(args ...string) (cmd *exec.Cmd, out string) {
		cmd, out, _ = s.client(append([]string{"logs", "-f", "--json"}, args...)...)
		return cmd, out
	}
	interrupt := func(cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // its error is the exit code
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("logs ended with %d after Ctrl-C, want 130", code)
		}
	}
	for _, args := range [][]string{{"--all"}, {"a", "b", "c", "-n", "0"}, {"--model", "board", "--since", "1h"}, {"a", "b", "c", "-n", "1"}, {"--all", "--since", "1s"}} {
		cmd, out := follow(args...)
		eventually(t, "it follows", func() bool { return s.listed("").Count == 3 })
		_, reached, _ := talkers[2].state()
		eventually(t, "it goes on", func() bool {
			rows := read(out)
			for i := len(rows) - 1; i >= 0; i-- {
				if rows[i].Key == devices[2].Key {
					return rows[i].Doc.N > reached+30
				}
			}
			return false
		})
		interrupt(cmd)
		last := map[string]int{}
		for _, l := range read(out) {
			if l.Gap != nil {
				t.Fatalf("logs %q told a gap: %s", args, l.Gap)
			}
			if n := last[l.Key]; n != 0 && l.Doc.N != n+1 {
				t.Fatalf("logs %q: line %d of %s after line %d", args, l.Doc.N, l.Key, n)
			}
			last[l.Key] = l.Doc.N
		}
		eventually(t, "its stream has ended", func() bool { return s.listed("").Count == 0 })
	}

	// Over a kill -9 of the server: whatever was acknowledged is there, once.
	cmd, out := follow("--all", "-n", "0")
	eventually(t, "it follows", func() bool { return s.listed("").Count == 3 })
	s.kill()
	s.launch()
	_, reached, _ := talkers[0].state()
	eventually(t, "the devices go on", func() bool { _, last, _ := talkers[0].state(); return last > reached+30 })
	for _, k := range talkers {
		k.stop()
	}
	heard := map[string]map[int]int{}
	eventually(t, "everything was printed", func() bool {
		clear(heard)
		for _, l := range read(out) {
			if heard[l.Key] == nil {
				heard[l.Key] = map[int]int{}
			}
			heard[l.Key][l.Doc.N]++
		}
		for _, k := range talkers {
			if _, last, _ := k.state(); heard[k.device.Key][last] == 0 {
				return false
			}
		}
		return true
	})
	interrupt(cmd)
	for _, k := range talkers {
		k.mu.Lock()
		for n := range k.acked {
			if heard[k.device.Key][n] == 0 {
				t.Errorf("line %d of %s was not printed", n, k.device.Entity)
			}
		}
		k.mu.Unlock()
		for n, times := range heard[k.device.Key] {
			if times != 1 {
				t.Errorf("line %s of %s was printed %d times", strconv.Itoa(n), k.device.Entity, times)
			}
		}
	}
}
