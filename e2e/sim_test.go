package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// client starts one of the program's other commands. The output goes to files.
func (s *server) client(args ...string) (cmd *exec.Cmd, stdout, stderr string) {
	s.t.Helper()
	dir := s.t.TempDir()
	stdout, stderr = filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr")
	create := func(name string) *os.File {
		f, err := os.Create(name)
		if err != nil {
			s.t.Fatal(err)
		}
		return f
	}
	out, errs := create(stdout), create(stderr)
	defer out.Close()
	defer errs.Close()
	cmd = exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SIGNALBOX_SERVER=" + s.url(""), "SIGNALBOX_MQTT=mqtt://" + s.mqtt}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // if it runs still
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%v:\n%s", args, tailOf(stderr))
		}
	})
	return cmd, stdout, stderr
}

// printed is a line of "signalbox tail --json".
type printed struct {
	Key string `json:"device_key"`
	Gap any    `json:"gap"`
	Doc struct {
		Seq int `json:"seq"`
	} `json:"doc"`
}

// The program's own fleet and its own tail, over a kill -9 of the server: each
// board numbers its lines, and the tail prints every number, in order. A board
// whose acknowledgement was lost with the server sends its batch again, so
// that one may be there twice, as a whole.
func TestSimAndTail(t *testing.T) {
	s := start(t)
	sim, _, simSays := s.client("sim", "--devices", "10", "--rate", "20", "--duration", "9s", "--seed", "7")
	eventually(t, "the boards are known", func() bool {
		var list struct{ Count int }
		s.want(200, "GET", "/api/devices", nil).into(t, &list)
		return list.Count == 10
	})
	tail, out, _ := s.client("tail", "--all", "--json")
	eventually(t, "the tail prints", func() bool { return len(printedLines(t, out)) > 100 })
	s.kill()
	s.launch()
	killed := s.metric("iot_logsink_mqtt_messages_total")
	if err := sim.Wait(); err != nil {
		t.Fatalf("sim: %v", err)
	}
	if got := s.metric("iot_logsink_mqtt_messages_total"); got < killed+20 {
		t.Errorf("only %v messages came after the restart: not much of a test", got-killed)
	}
	// The boards' last lines: how many they published altogether.
	var said struct {
		Published int `json:"lines_published"`
		Acked     int `json:"lines_acked"`
	}
	text := bytes.TrimSpace([]byte(tailOf(simSays)))
	if err := json.Unmarshal(text[bytes.LastIndexByte(text, '\n')+1:], &said); err != nil || said.Published == 0 || said.Published != said.Acked {
		t.Fatalf("sim says %s (%v)", text, err)
	}

	eventually(t, "the tail has printed everything", func() bool {
		last := map[string]int{}
		for _, p := range printedLines(t, out) {
			last[p.Key] = max(last[p.Key], p.Doc.Seq)
		}
		total := 0
		for _, n := range last {
			total += n
		}
		return total == said.Published
	})
	if err := tail.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = tail.Wait() // its error is the exit code
	if code := tail.ProcessState.ExitCode(); code != 130 {
		t.Errorf("tail ended with %d after Ctrl-C, want 130", code)
	}

	byDevice := map[string][]int{}
	for _, p := range printedLines(t, out) {
		if p.Gap != nil {
			t.Errorf("the tail printed a gap: %v", p.Gap)
		}
		byDevice[p.Key] = append(byDevice[p.Key], p.Doc.Seq)
	}
	if len(byDevice) != 10 {
		t.Errorf("lines of %d devices were printed, want 10", len(byDevice))
	}
	repeats := 0
	for key, seqs := range byDevice {
		repeats += checkSeqs(t, key, seqs)
	}
	if repeats > len(byDevice) {
		t.Errorf("%d batches were repeated over one crash, want at most one of each device", repeats)
	}
	t.Logf("%d lines, %d batches repeated", said.Published, repeats)
}

// checkSeqs checks that numbers rise by one, except that a run of them may come
// again at once, and returns how often that was so.
func checkSeqs(t *testing.T, key string, seqs []int) (repeats int) {
	t.Helper()
	for i := 1; i < len(seqs); i++ {
		prev, n := seqs[i-1], seqs[i]
		switch {
		case n == prev+1:
		case n <= prev && i >= prev-n+1 && seqs[i-(prev-n+1)] == n && i+(prev-n) < len(seqs) && seqs[i+(prev-n)] == prev:
			repeats++ // the last prev-n+1 lines, all of them
		default:
			t.Errorf("%s: line %d came after line %d", key, n, prev)
		}
	}
	return repeats
}

// printedLines reads what the tail has printed up to now.
func printedLines(t *testing.T, file string) (all []printed) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewReader(f)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return all // the rest is not whole yet
		}
		var p printed
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatalf("the tail printed %q: %v", text, err)
		}
		all = append(all, p)
	}
}

// A pipe that is closed ends the tail well, as in "signalbox tail ... | head".
func TestTailIntoClosedPipe(t *testing.T) {
	s := start(t)
	d := s.device("d")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "tail", "d", "--server", s.url(""))
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	eventually(t, "the tail follows", func() bool { return s.listed("").Count == 1 })
	b := s.board(d)
	b.say(1)
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line == "" {
		t.Fatalf("the tail printed %q: %v", line, err)
	}
	r.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its error is the exit code
	}()
	for more := true; more; {
		select {
		case <-ended:
			more = false
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			t.Fatal("the tail did not end")
		default:
			b.say(1)
		}
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// The demo stops the server and the fleet, also when it is told to more than
// once: make and a person's Ctrl-C may both reach it.
func TestDemoStopsWhatItStarted(t *testing.T) {
	s := prepare(t)
	demo := exec.Command(tool(t, "bash"), "../scripts/demo.sh")
	demo.Env = []string{"PATH=" + os.Getenv("PATH"), "PROGRAM=" + program, "DEVICES=3"}
	for name, value := range s.settings {
		demo.Env = append(demo.Env, name+"="+value)
	}
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = demo.Process.Kill() }) // if it runs still
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "Ctrl-C stops both." {
	}
	ended := make(chan error, 1)
	go func() { ended <- demo.Wait() }()
	for exited := false; !exited; {
		_ = demo.Process.Signal(syscall.SIGTERM) // it may have ended just now
		select {
		case <-ended:
			exited = true
		case <-time.After(time.Millisecond):
		}
	}
	if code := demo.ProcessState.ExitCode(); code != 143 {
		t.Errorf("exit code %d, want 143", code)
	}
	if a, err := s.try(t.Context(), "GET", s.url("/health/healthz"), nil); err == nil {
		t.Errorf("the server still runs and answers %d", a.status)
	}
}
