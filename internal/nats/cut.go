package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// A journal whose end was lost, with the power or by putting an old copy of its
// files back, would give the same sequences out again, to other records: who was
// given the first ones, a reader or a projection, would take the new ones for
// what it has. So it goes on behind all that may have been given out, and
// fills what lies between with empty records, which keeps its sequences without holes.

const (
	maxCuts   = 32   // remembered
	cutPiece  = 8192 // records that fill a cut, between two acknowledgements
	leastMark = 1 << 14
	mostMark  = 1 << 20
	markPace  = 10 * time.Second // a mark that is raised sooner is raised further
)

// Advance implements logs.Journal.
func (j *Journal) Advance(ctx context.Context, beyond uint64) error {
	_, newest, err := j.Bounds(ctx)
	if err != nil || newest >= beyond {
		return err
	}
	j.log.Error("the journal lost its end; it goes on behind what was given out before", "newest_seq", newest, "next_seq", beyond+1)
	// First what says so: a cut that is not filled is filled by the next process.
	j.cutMu.Lock()
	cuts := slices.Clone(j.cuts)
	if n := len(cuts); n > 0 && cuts[n-1].To >= newest { // nothing has come between
		cuts[n-1].To = beyond
	} else {
		cuts = append(cuts, logs.Cut{From: newest, To: beyond})
	}
	cuts = cuts[max(0, len(cuts)-maxCuts):]
	j.cutMu.Unlock()
	config := j.config
	config.Metadata = map[string]string{epochKey: j.epoch, cutsKey: formatCuts(cuts)}
	updated, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := j.js.UpdateStream(updated, config); err != nil {
		return fleet.E(fleet.Unavailable, err, "The log journal is not available")
	}
	j.cutMu.Lock()
	j.cuts = cuts
	j.cutMu.Unlock()
	for newest < beyond {
		for range min(cutPiece, beyond-newest) - 1 {
			if err := j.conn.Publish(cutSubject, nil); err != nil {
				return fleet.E(fleet.Unavailable, err, "The log journal is not available")
			}
		}
		piece, cancel := context.WithTimeout(ctx, appendTimeout)
		ack, err := j.js.Publish(piece, cutSubject, nil)
		cancel()
		switch {
		case err != nil:
			return fleet.E(fleet.Unavailable, err, "The log journal is not available")
		case ack.Sequence <= newest:
			return fleet.E(fleet.Internal, nil, "the journal does not advance beyond %d", newest)
		}
		newest = ack.Sequence
		j.server.acknowledge(newest)
	}
	return nil
}

func (j *Journal) knownCuts() []logs.Cut {
	j.cutMu.Lock()
	defer j.cutMu.Unlock()
	return j.cuts // never changed, only replaced
}

func formatCuts(cuts []logs.Cut) string {
	var b strings.Builder
	for _, c := range cuts {
		fmt.Fprintf(&b, "%d-%d ", c.From, c.To)
	}
	return strings.TrimSpace(b.String())
}

func parseCuts(text string) (cuts []logs.Cut) {
	for part := range strings.FieldsSeq(text) {
		var c logs.Cut
		if n, err := fmt.Sscanf(part, "%d-%d", &c.From, &c.To); n == 2 && err == nil {
			cuts = append(cuts, c)
		}
	}
	return cuts
}

// mark is a file that says which sequences may have been given out. It stands apart
// from the journal and is forced to the disk before they are, so it outlives an
// end of the journal that was not. Only the acknowledging goroutine uses it
// while the journal is open.
type mark struct {
	path   string
	marked marked
	room   uint64 // how far it is raised
	raised time.Time
}

// marked is the content of the file.
type marked struct {
	Epoch string `json:"epoch"`
	Upto  uint64 `json:"up_to"` // no greater sequence was given out
	Clean bool   `json:"clean"` // the journal was closed, and this is its last one
	Boot  string `json:"boot"`  // the run of the kernel
}

// openMark compares the journal with the mark, advances it beyond what it has
// lost, and begins a new mark. A process that was killed lost nothing, as
// long as the kernel goes on.
func (j *Journal) openMark(ctx context.Context, path string) error {
	var last marked
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(text, &last); err != nil {
			j.log.Error("the mark of the journal cannot be read; whether the journal lost its end is not known", "file", path, "err", err)
		}
	}
	boot := bootID()
	if last.Epoch == j.epoch && (last.Clean || last.Boot != boot) {
		if err := j.Advance(ctx, last.Upto); err != nil {
			return err
		}
	}
	_, newest, err := j.Bounds(ctx)
	if err != nil {
		return err
	}
	j.mark = &mark{path: path, room: leastMark, marked: marked{Epoch: j.epoch, Boot: boot}}
	if last.Epoch == j.epoch {
		j.mark.marked.Upto = last.Upto
	}
	return j.mark.write(max(j.mark.marked.Upto, newest+leastMark))
}

// raise is called for every sequence, before it is acknowledged. Half of the
// room is left for those that are stored already and whose answers are under way.
func (m *mark) raise(seq uint64) error {
	if seq+m.room/2 <= m.marked.Upto {
		return nil
	}
	if time.Since(m.raised) < markPace {
		m.room = min(2*m.room, mostMark)
	} else {
		m.room = leastMark
	}
	m.raised = time.Now()
	err := m.write(seq + m.room)
	if seq <= m.marked.Upto {
		return nil // the next one tries again
	}
	return err
}

// close says that nothing beyond the sequence was given out.
func (m *mark) close(newest uint64) error {
	m.marked.Clean = true
	return m.write(newest)
}

func (m *mark) write(upTo uint64) error {
	next := m.marked
	next.Upto = upTo
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(m.path), filepath.Base(m.path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if dir, err := os.Open(filepath.Dir(m.path)); err == nil { // not everywhere can a directory be synced
		_ = dir.Sync()
		_ = dir.Close()
	}
	m.marked = next
	return nil
}

// bootID names the run of the kernel, "" where that cannot be known.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
