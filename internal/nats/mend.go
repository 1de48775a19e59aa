package nats

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"signalbox/internal/logs"
)

// After a failed write, such as to a full disk, JetStream refuses everything
// for that stream until it is opened anew, though there may be room again. The
// mender does that: nothing is lost by it, as what failed was not acknowledged,
// and what was acknowledged is in the files that are read again.
type mender struct {
	nats   *server.Server
	config server.JetStreamConfig
	dir    string
	log    *slog.Logger
	stop   chan struct{}
	ended  chan struct{}
}

const (
	mendEvery = time.Second
	mendRoom  = 4 * logs.MaxMessage // free bytes that make another try worth while
	mendLog   = time.Minute         // between two messages about one trouble
)

// run looks after the streams until stop is closed.
func (m *mender) run() {
	defer close(m.ended)
	tick := time.NewTicker(mendEvery)
	defer tick.Stop()
	var told time.Time
	for {
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
		if m.healthy() {
			continue
		}
		if err := m.mend(); err != nil && time.Since(told) > mendLog {
			told = time.Now()
			m.log.Error("the journal cannot be written; nothing is acknowledged until it can", "err", err)
		}
	}
}

// healthy reports whether every stream takes messages.
func (m *mender) healthy() bool {
	if !m.nats.JetStreamEnabled() {
		return false
	}
	h := m.nats.Healthz(&server.HealthzOptions{Details: true})
	for _, e := range h.Errors {
		if e.Type == server.HealthzErrorStream {
			return false
		}
	}
	return true
}

// mend opens all streams anew if the disk can be written.
func (m *mender) mend() error {
	if err := m.tryDisk(); err != nil {
		return err
	}
	if err := m.nats.ShutdownJetStream(); err != nil {
		return err
	}
	config := m.config
	if err := m.nats.EnableJetStream(&config); err != nil {
		return err // healthy will see that it is off
	}
	m.log.Info("the journal is open again after it could not be written")
	return nil
}

// tryDisk writes a file of mendRoom bytes and removes it.
func (m *mender) tryDisk() (err error) {
	name := filepath.Join(m.dir, "room")
	defer func() {
		if e := os.Remove(name); err == nil {
			err = e
		}
	}()
	return os.WriteFile(name, make([]byte, mendRoom), 0o600)
}
