package web_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// largeFleet is a server over a database with so many devices, which were all
// rotated before and are in all states of an attempt.
func largeFleet(b *testing.B, n int) (*web.Server, *rotation.Fleet) {
	b.Helper()
	ctx := b.Context()
	db, err := sqlstore.Open(ctx, filepath.Join(b.TempDir(), "test.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	at := time.Now().Add(-100 * time.Hour).UTC()
	ids := make([]int64, n)
	err = db.Tx(ctx, func(q registry.Queries) error {
		model, err := q.InsertModel(ctx, fleet.Model{Code: "relay", Name: "Relay", CreatedAt: at, UpdatedAt: at})
		for i := range ids {
			if err != nil {
				return err
			}
			ids[i], err = q.InsertDevice(ctx, fleet.Device{Key: fmt.Sprintf("dev%05d", i), Model: fleet.Model{ID: model}, Active: i%10 > 0, Config: "{}", Name: new(fmt.Sprintf("Device %d", i)),
				Rotation: fleet.RotationOK, SecretCreatedAt: &at, LastRotationAttemptAt: &at, LastRotationCompletedAt: &at, CreatedAt: at, UpdatedAt: at})
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	service, err := registry.New(ctx, db, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	runner := rotation.NewRunner(rotation.Options{Store: db, Issuer: none{}})
	f := rotation.NewFleet(rotation.FleetOptions{Store: db, Runner: runner})
	if _, err := f.Trigger(ctx, nil, rotation.Ask{}); err != nil {
		b.Fatal(err)
	}
	// The worst case: every record has a whole state.
	for i, id := range ids {
		rec, err := db.Rotation(ctx, id)
		if err != nil {
			b.Fatal(err)
		}
		if rec.State.Wire == fleet.RotationQueued {
			rec.State = rotation.State{Wire: fleet.RotationPending, Step: rotation.Offered, Attempt: int64(i), StartedAt: at, Deadline: at.Add(time.Hour), FetchedAt: at, FetchedBy: at, CompletedAt: at}
			if i%2 == 0 {
				rec.State.Wire, rec.State.Deadline, rec.State.RetryAt, rec.State.Failures = fleet.RotationTimeout, time.Time{}, at.Add(time.Hour), 2
			}
			rec.New = "sealed"
			if _, err := db.CommitRotation(ctx, rotation.Change{Record: rec}); err != nil {
				b.Fatal(err)
			}
		}
	}
	return web.New(web.Options{Log: slog.New(slog.DiscardHandler), Registry: service, Fleet: f, CriticalDays: 7}), f
}

// none is an issuer that is never asked.
type none struct{ rotation.Issuer }

func (none) Dual() bool { return true }

// sink is a client that wants to see nothing.
type sink struct {
	header http.Header
	status int
	bytes  int64
}

func (s *sink) Header() http.Header    { return s.header }
func (s *sink) WriteHeader(status int) { s.status = status }
func (s *sink) Write(b []byte) (int, error) {
	s.bytes += int64(len(b))
	return len(b), nil
}

func BenchmarkRotation(b *testing.B) {
	server, f := largeFleet(b, 10_000)
	for _, path := range []string{"status", "dashboard"} {
		for _, encoding := range []string{"", "gzip"} {
			b.Run(path+"/"+encoding, func(b *testing.B) {
				var before, after syscall.Rusage
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before) // it cannot fail
				for b.Loop() {
					r := httptest.NewRequest("GET", "/api/rotation/"+path, nil)
					r.Header.Set("Accept-Encoding", encoding)
					w := &sink{header: http.Header{}}
					server.Handler().ServeHTTP(w, r)
					if w.status != 200 {
						b.Fatal(w.status)
					}
					b.SetBytes(w.bytes)
				}
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
				// On a machine with much else to do, this is what tells.
				spent := time.Duration(after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano())
				b.ReportMetric(float64(spent.Microseconds())/float64(b.N)/1000, "cpu-ms/op")
			})
		}
	}
	b.Run("standings", func(b *testing.B) {
		for b.Loop() {
			if _, err := f.Standings(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
