package logs

import (
	"sort"
	"sync"
)

// Ledger remembers how many lines each of the last batches held, so that a
// reader whose lines the journal has given up can be told how many they were.
// It knows the batches that this process appended since it started, up to
// ledgerSize of them; about what came before it says that it does not know.
// Safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	since   uint64 // everything after this sequence is known
	blocks  [][]ledgerEntry
	devices map[string]uint32
}

type ledgerEntry struct {
	seq    uint64
	device uint32
	lines  uint32
}

const (
	ledgerBlock = 1 << 14          // entries: 256 KiB
	ledgerSize  = 64 * ledgerBlock // entries: 16 MiB
)

// NewLedger returns a Ledger that knows nothing of what came up to and
// including the sequence since.
func NewLedger(since uint64) *Ledger {
	return &Ledger{since: since, devices: map[string]uint32{}}
}

// Add notes a batch. Sequences must rise.
func (l *Ledger) Add(seq uint64, device string, lines int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, ok := l.devices[device]
	if !ok {
		id = uint32(len(l.devices))
		l.devices[device] = id
	}
	last := len(l.blocks) - 1
	if last < 0 || len(l.blocks[last]) == ledgerBlock {
		if (last+1)*ledgerBlock >= ledgerSize {
			l.since = l.blocks[0][ledgerBlock-1].seq
			l.blocks = append(l.blocks[:0], l.blocks[1:]...)
			last--
		}
		l.blocks = append(l.blocks, make([]ledgerEntry, 0, ledgerBlock))
		last++
	}
	l.blocks[last] = append(l.blocks[last], ledgerEntry{seq, id, uint32(lines)})
}

// Lines returns how many lines of the device have a sequence with
// after < sequence <= upTo, and whether that is known.
func (l *Ledger) Lines(device string, after, upTo uint64) (n int, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after < l.since {
		return 0, false
	}
	id, ok := l.devices[device]
	if !ok {
		return 0, true
	}
	at := sort.Search(len(l.blocks), func(i int) bool { return l.blocks[i][len(l.blocks[i])-1].seq > after })
	for ; at < len(l.blocks); at++ {
		for _, e := range l.blocks[at] {
			switch {
			case e.seq > upTo:
				return n, true
			case e.seq > after && e.device == id:
				n += int(e.lines)
			}
		}
	}
	return n, true
}
