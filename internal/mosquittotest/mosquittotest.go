// Package mosquittotest runs a real Mosquitto for a test.
package mosquittotest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/porttest"
)

// Options says what the broker should be like. The zero value is a broker
// without authentication or persistence.
type Options struct {
	Users      map[string]string // passwords by name; empty lets everybody in
	TLS        bool              // adds a listener with TLS
	WebSocket  bool              // adds a listener with WebSockets
	Persistent bool              // sessions and messages survive Stop (not Kill)
	Extra      string            // lines added to the configuration
}

// Broker is a running Mosquitto. It listens on loopback ports that stay the
// same when it is restarted.
type Broker struct {
	Addr   string // host:port of the plain listener
	TLS    string // host:port of the listener with TLS, if asked for
	WS     string // host:port of the WebSocket listener, if asked for
	CAFile string // the authority of the TLS listener's certificate, in PEM

	t      testing.TB
	binary string
	config string

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

// Start runs a broker until the test ends. Without a mosquitto on the machine it
// skips the test, or fails it if CI is set to true.
func Start(t testing.TB, o Options) *Broker {
	t.Helper()
	binary := find()
	if binary == "" {
		const why = "mosquitto is not installed (Debian: apt-get install mosquitto)"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	dir := t.TempDir()
	b := &Broker{t: t, binary: binary, config: filepath.Join(dir, "mosquitto.conf"), Addr: porttest.Free(t)}

	var conf bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&conf, format+"\n", args...) }
	listener := func(addr string) {
		host, port, _ := net.SplitHostPort(addr)
		line("listener %s %s", port, host)
	}
	if os.Geteuid() == 0 {
		line("user root") // or it changes to a user who cannot read our directory
	}
	line("log_dest stderr")
	line("log_type all")
	line("max_queued_messages 0") // of a session that is away: all of them
	if o.Persistent {
		line("persistence true\npersistence_location %s/\nautosave_interval 1", dir)
	}
	if len(o.Users) > 0 {
		file := filepath.Join(dir, "passwords")
		b.write(file, "")
		for name, password := range o.Users {
			if out, err := exec.Command("mosquitto_passwd", "-b", file, name, password).CombinedOutput(); err != nil {
				t.Fatalf("mosquitto_passwd: %v\n%s", err, out)
			}
		}
		line("allow_anonymous false\npassword_file %s", file)
	} else {
		line("allow_anonymous true")
	}
	line("%s", o.Extra)
	listener(b.Addr)
	if o.WebSocket {
		b.WS = porttest.Free(t)
		listener(b.WS)
		line("protocol websockets")
	}
	if o.TLS {
		b.TLS = porttest.Free(t)
		b.CAFile = filepath.Join(dir, "ca.pem")
		ca, cert, key := Certificates(t)
		b.write(b.CAFile, ca)
		b.write(filepath.Join(dir, "cert.pem"), cert)
		b.write(filepath.Join(dir, "key.pem"), key)
		listener(b.TLS)
		line("certfile %s\nkeyfile %s", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	}
	b.write(b.config, conf.String())
	b.Restart()
	t.Cleanup(func() {
		b.Stop()
		if t.Failed() {
			t.Logf("mosquitto's log:\n%s", &b.out)
		}
	})
	return b
}

// URL returns the URL of the plain listener.
func (b *Broker) URL() string { return "mqtt://" + b.Addr }

// AwaitLog waits until the broker has logged text, which is how a test learns
// that a packet did not only leave but arrived. It fails the test after 10 s.
func (b *Broker) AwaitLog(text string) {
	b.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if strings.Contains(b.out.String(), text) {
			return
		}
	}
	b.t.Fatalf("mosquitto has not logged %q", text)
}

// Stop ends the broker in order and waits for it. It does nothing if the broker
// is not running.
func (b *Broker) Stop() { b.end(os.Interrupt) }

// Kill ends the broker at once, so that it saves nothing, and waits for it.
func (b *Broker) Kill() { b.end(os.Kill) }

// Restart starts the broker again, after Stop if it is running, and waits until
// it accepts connections.
func (b *Broker) Restart() {
	b.t.Helper()
	b.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cmd = exec.Command(b.binary, "-c", b.config)
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		b.t.Fatalf("mosquitto: %v", err)
	}
	b.wait = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // killed, as often as not
		close(ended)
	}(b.cmd, b.wait)
	for _, addr := range []string{b.Addr, b.TLS, b.WS} {
		if addr != "" && !b.accepts(addr) {
			<-b.wait
			b.t.Fatalf("mosquitto does not accept connections on %s:\n%s", addr, &b.out)
		}
	}
}

func (b *Broker) end(sig os.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(sig) // it may have ended by itself
	select {
	case <-b.wait:
	case <-time.After(10 * time.Second):
		_ = b.cmd.Process.Kill()
		<-b.wait
		b.t.Errorf("mosquitto had to be killed")
	}
	b.cmd = nil
}

// accepts waits until something listens at addr; it reports false, with the
// process ended, if nothing does.
func (b *Broker) accepts(addr string) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return true
		}
		select {
		case <-b.wait:
			return false
		case <-tick.C:
		}
	}
	_ = b.cmd.Process.Kill()
	return false
}

func (b *Broker) write(file, content string) {
	b.t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func find() string {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Certificates makes an authority, and a certificate of it for localhost and
// 127.0.0.1 with its key, all in PEM and good for an hour.
func Certificates(t testing.TB) (ca, cert, key string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		return k
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootKey := newKey()
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafKey := newKey()
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	must(err)
	return encode("CERTIFICATE", rootDER), encode("CERTIFICATE", leafDER), encode("PRIVATE KEY", keyDER)
}
