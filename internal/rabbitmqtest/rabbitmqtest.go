// Package rabbitmqtest runs a real RabbitMQ for a test.
package rabbitmqtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/porttest"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Broker is a running RabbitMQ. It listens on a loopback port that stays the
// same when it is restarted, and what is durable survives Kill.
type Broker struct {
	Addr string // host:port

	t      testing.TB
	binary string
	env    []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	out  transcript
	wait chan struct{} // closed when the process has ended
}

// transcript is what the broker logged so far.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *transcript) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *transcript) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Start runs a broker until the test ends. Without a RabbitMQ on the machine it
// skips the test, or fails it if CI is set to true.
func Start(t testing.TB) *Broker {
	t.Helper()
	// The script in PATH changes to a user who cannot read our directory.
	found, _ := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server") // the pattern is well formed
	epmd, err := exec.LookPath("epmd")
	if len(found) == 0 || err != nil {
		const why = "RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	dir := t.TempDir()
	b := &Broker{t: t, binary: found[len(found)-1], Addr: porttest.Free(t)}
	_, port, _ := net.SplitHostPort(b.Addr)
	_, names, _ := net.SplitHostPort(porttest.Free(t))
	_, peers, _ := net.SplitHostPort(porttest.Free(t))
	config := filepath.Join(dir, "rabbitmq.conf")
	if err := os.WriteFile(config, []byte("listeners.tcp.default = "+b.Addr+"\nlog.console = true\nlog.file = false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.env = append(os.Environ(),
		"HOME="+dir, "LANG=C.UTF-8", // where Erlang's cookie is
		"ERL_EPMD_PORT="+names, "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=test"+port+"@localhost",
		"RABBITMQ_NODE_PORT="+port, "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_DIST_PORT="+peers,
		"RABBITMQ_CONFIG_FILE="+config, "RABBITMQ_CONF_ENV_FILE="+filepath.Join(dir, "none"),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"), "RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"), "RABBITMQ_LOGS=-",
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"), "RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"),
		"RABBITMQ_FEATURE_FLAGS_FILE="+filepath.Join(dir, "flags"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 1:1 +sbwt none",
	)
	// Erlang would leave its server of names behind as a daemon.
	registrar := exec.Command(epmd, "-port", names, "-address", "127.0.0.1")
	if err := registrar.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Kill()
		_ = registrar.Process.Kill() // it may have ended by itself
		_ = registrar.Wait()
		if t.Failed() {
			log := b.out.String()
			t.Logf("the end of RabbitMQ's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	b.Restart()
	return b
}

// URL returns the URL of the broker, with its user's name and password.
func (b *Broker) URL() string { return "amqp://guest:guest@" + b.Addr + "/" }

// Dial connects to the broker, until the test ends.
func (b *Broker) Dial() *amqp.Connection {
	b.t.Helper()
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() }) // the broker may be gone
	return conn
}

// Kill ends the broker as kill -9 does. It does nothing if it has ended.
func (b *Broker) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd == nil {
		return
	}
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // the script, and what it started
	<-b.wait
	b.cmd = nil
}

// Restart kills the broker if it runs, starts it, and waits until it answers.
func (b *Broker) Restart() {
	b.t.Helper()
	b.Kill()
	b.mu.Lock()
	defer b.mu.Unlock()
	cmd := exec.Command(b.binary)
	cmd.Env, cmd.Stdout, cmd.Stderr = b.env, &b.out, &b.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	wait := make(chan struct{})
	b.cmd, b.wait = cmd, wait
	go func() {
		defer close(wait)
		_ = cmd.Wait() // it is killed
	}()
	const patience = 2 * time.Minute // an Erlang that starts on a busy machine
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := amqp.Dial(b.URL()); err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-wait:
			b.t.Fatalf("RabbitMQ ended:\n%s", &b.out)
		default:
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("RabbitMQ does not start:\n%s", &b.out)
		}
	}
}
