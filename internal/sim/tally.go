package sim

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"signalbox/internal/fleet"
)

const (
	sayEvery   = 5 * time.Second  // how the rotations stand, if that changed
	lookAgain  = 20 * time.Second // for all boards, when the simulation ends
	looksAtOne = 5 * time.Second
)

// Ending is where a board stands with its secret.
type Ending string

// The endings.
const (
	Untouched Ending = "untouched"  // it has the secret that it began with, and heard of no other
	Rotated   Ending = "rotated"    // it uses the last secret that it heard of
	Waiting   Ending = "waiting"    // it heard of a secret that it does not use so far
	LockedOut Ending = "locked out" // the token endpoint refuses what it has
	Revoked   Ending = "revoked"    // and that is meant so
	Unknown   Ending = "unknown"    // it was not provisioned, or the token endpoint does not answer
)

// Report is what became of the secrets of all boards.
type Report struct {
	Devices int                     `json:"devices"`
	Endings map[Ending]int          `json:"endings"`
	ByKind  map[Kind]map[Ending]int `json:"by_kind"`
	Steps   map[string]StepReport   `json:"steps"` // fetch, proof, token and config
	All     []BoardReport           `json:"boards"`
}

// StepReport is how a step of the rotations went. The times are in seconds, and
// without those that boards think.
type StepReport struct {
	Done    int     `json:"done"`
	Failed  int     `json:"failed"`
	Seconds float64 `json:"seconds"` // all of those that were done together
	Longest float64 `json:"longest_seconds"`
}

// BoardReport is what became of the secret of one board.
type BoardReport struct {
	Name      string     `json:"name"` // its entity id
	DeviceID  int64      `json:"device_id"`
	ClientID  string     `json:"client_id"`
	Kind      Kind       `json:"kind"`
	Ending    Ending     `json:"ending"`
	Notices   int        `json:"notices"`   // that it heard
	Fetched   int        `json:"fetched"`   // secrets that it had not before
	Rotations int        `json:"rotations"` // of them, that it used
	ToldAt    *time.Time `json:"told_at"`   // of the last rotation
	DoneAt    *time.Time `json:"done_at"`
}

// tally is what is counted of all boards.
type tally struct {
	kept    *kept
	keepers []*keeper

	mu    sync.Mutex
	steps map[string]StepReport
}

func (t *tally) took(step string, d time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.steps[step]
	if err != nil {
		s.Failed++
	} else {
		s.Done++
		s.Seconds += d.Seconds()
		s.Longest = max(s.Longest, d.Seconds())
	}
	t.steps[step] = s
}

// report returns how all boards stand, by what they know.
func (t *tally) report() *Report {
	r := &Report{Devices: len(t.keepers), Endings: map[Ending]int{}, ByKind: map[Kind]map[Ending]int{}}
	for _, k := range t.keepers {
		b := k.report()
		r.All = append(r.All, b)
		r.Endings[b.Ending]++
		if r.ByKind[b.Kind] == nil {
			r.ByKind[b.Kind] = map[Ending]int{}
		}
		r.ByKind[b.Kind][b.Ending]++
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Steps = maps.Clone(t.steps)
	return r
}

func (k *keeper) report() BoardReport {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.story
	b := BoardReport{Name: k.name, DeviceID: k.id, ClientID: k.clientID, Kind: k.kind, Ending: Untouched, Notices: s.notices, Fetched: s.fetches, Rotations: s.rotations}
	switch {
	case s.revoked:
		b.Ending = Revoked
	case s.refused:
		b.Ending = LockedOut
	case s.unknown || k.creds.ClientSecret == "":
		b.Ending = Unknown
	case s.waiting:
		b.Ending = Waiting
	case s.rotations > 0:
		b.Ending = Rotated
	}
	if !s.toldAt.IsZero() {
		b.ToldAt = &s.toldAt
	}
	if !s.doneAt.IsZero() {
		b.DoneAt = &s.doneAt
	}
	return b
}

// say logs how the rotations stand, whenever that changed, until ctx ends.
func (t *tally) say(ctx context.Context, log *slog.Logger) {
	last := map[Ending]int{Untouched: len(t.keepers)}
	for sleep(ctx, sayEvery) {
		now := t.report().Endings
		if n := now[Unknown]; n > 0 { // at the beginning
			now[Untouched] += n
			delete(now, Unknown)
		}
		if !maps.Equal(now, last) {
			log.Info("rotations", said(now)...)
			last = now
		}
	}
}

func said(n map[Ending]int) []any {
	return []any{"rotated", n[Rotated], "waiting", n[Waiting], "locked_out", n[LockedOut], "revoked", n[Revoked], "untouched", n[Untouched] + n[Unknown]}
}

// look asks the token endpoint for every board whether what it has is good,
// whatever network the board has, and the server why if it is not.
func (t *tally) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	next := make(chan *keeper)
	var askers sync.WaitGroup
	for range creatorsAtOnce {
		askers.Go(func() {
			for k := range next {
				k.look(ctx)
			}
		})
	}
	for _, k := range t.keepers {
		next <- k
	}
	close(next)
	askers.Wait()
}

func (k *keeper) look(ctx context.Context) {
	if k.secret() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, looksAtOne)
	defer cancel()
	_, err := k.obtain(ctx, k.api.http)
	refused := err != nil && fleet.KindOf(err) == fleet.Unauthenticated
	var d struct {
		Revoked bool `json:"revoked"`
	}
	if refused {
		// Without an answer it is locked out: what we cannot explain is not explained away.
		_ = k.api.do(ctx, http.MethodGet, "/api/devices/"+strconv.FormatInt(k.id, 10), nil, &d)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.story.revoked, k.story.unknown = d.Revoked, err != nil && !refused
}

// end says what became of all boards, if there is anything to say, and writes it
// to file unless that is "".
func (t *tally) end(ctx context.Context, file string, log *slog.Logger) error {
	if now := t.report().Endings; file == "" && now[Untouched]+now[Unknown] == len(t.keepers) {
		return nil
	}
	t.look(ctx)
	r := t.report()
	log.Info("rotations ended", said(r.Endings)...)
	if file == "" {
		return nil
	}
	return r.write(file)
}

// write writes the report as JSON.
func (r *Report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// kept is the secrets of the boards in a file, as the flash of each keeps its own
// over a restart. Without a file they are forgotten.
type kept struct {
	file string

	mu      sync.Mutex
	secrets map[string]string // by client id
}

// openKept reads the file; one that is not there is empty. "" is none.
func openKept(file string) (*kept, error) {
	k := &kept{file: file, secrets: map[string]string{}}
	if file == "" {
		return k, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &k.secrets)
	}
	if err != nil {
		return nil, fleet.E(fleet.Invalid, err, "%s cannot be read as what --state wrote", file)
	}
	return k, nil
}

func (k *kept) get(clientID string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.secrets[clientID]
}

// put keeps a secret. What is in the file is whole at every moment.
func (k *kept) put(clientID, secret string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == "" || k.secrets[clientID] == secret {
		return nil
	}
	before := k.secrets[clientID]
	k.secrets[clientID] = secret
	text, err := json.MarshalIndent(k.secrets, "", "  ")
	if err == nil {
		err = os.WriteFile(k.file+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(k.file+".new", k.file)
	}
	if err != nil {
		k.secrets[clientID] = before
	}
	return err
}
