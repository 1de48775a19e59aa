package logs

import (
	"context"
	"time"
)

// Chunk is a run of one device's lines as it is stored: whole batches, and all
// that the device has between the first and the last of them.
type Chunk struct {
	ChunkInfo
	Filter []byte // the tokens in it, for mayHold; nil: unknown
	Data   []byte // the lines, see block.encode
	// Replaces is the ID of the device's chunk that this one begins with and
	// takes the place of, 0 for none.
	Replaces int64
}

// ChunkInfo is what can be known of a chunk without reading it.
type ChunkInfo struct {
	ID          int64 // given by the store
	Device      string
	Epoch       string
	EpochNumber int64 // orders epochs; given by the store
	First, Last uint64
	Least, Most time.Time // the earliest and the latest receive time
	Lines       int
	Bytes       int // of the messages
	Stored      int // of the chunk in the store
	Levels      LevelMask
}

// Lost says that lines are gone: those of the device, or of any device if it is
// "", with From < sequence <= To.
type Lost struct {
	Device      string
	Epoch       string
	EpochNumber int64
	From, To    uint64
	Least, Most time.Time // when they were received; zero if not known
	Lines       int       // 0 if not known
	Reason      string    // one of the constants below
}

// The reasons why lines are gone.
const (
	LostRetention = "retention"     // deleted, as the operator wishes
	LostJournal   = "journal-limit" // the journal was full before they were sealed
	LostRejected  = "rejected"      // the sink that is the history will never take them
	LostDamaged   = "damaged"       // stored, and not readable any more
	LostReset     = "journal-reset" // the journal is not the one the reader knew, or lost its end
	LostRate      = "rate"          // more than the reader wanted at once
	LostPosition  = "position"      // it is not known how far the reader had come: it may have had them
)

// Chunks is the store of sealed lines. Safe for concurrent use.
type Chunks interface {
	// Sealed returns the sequence up to which everything of the epoch is sealed,
	// or 0, and for the devices of which more is, how much. An epoch that is
	// new to the store is entered as the newest.
	Sealed(ctx context.Context, epoch string) (upTo uint64, beyond map[string]uint64, err error)

	// Seal stores chunks, what was lost on the way, and the new position, all or
	// nothing. A chunk whose device has that sequence already is an error.
	Seal(ctx context.Context, epoch string, upTo uint64, chunks []Chunk, lost []Lost) error

	// View calls f with one state of the store, whatever is written meanwhile.
	View(ctx context.Context, f func(ChunkView) error) error

	// Expire deletes, of the devices, or of all if nil, at most limit of the
	// chunks that are wholly from before the time, the oldest first, and notes
	// what was lost. It returns what it deleted.
	Expire(ctx context.Context, devices []string, before time.Time, limit int) (Usage, error)
	// Shrink does the same with the oldest chunks until at least that many
	// bytes are deleted, or there is no more.
	Shrink(ctx context.Context, devices []string, bytes int64, limit int) (Usage, error)
	// Forget deletes everything of a device.
	Forget(ctx context.Context, device string) error
	// Usage returns what is stored of the devices, or of all if nil.
	Usage(ctx context.Context, devices []string) (Usage, error)
	// Reclaim gives a piece of free space back to the file system, and reports
	// whether there is more.
	Reclaim(ctx context.Context) (more bool, err error)
}

// Usage is an amount of stored lines.
type Usage struct {
	Chunks int
	Lines  int64
	Bytes  int64 // in the store, filters included
	Oldest time.Time
}

// ChunkView is one state of the store.
type ChunkView interface {
	// Epochs returns the number of each epoch that is known.
	Epochs(ctx context.Context) (map[string]int64, error)
	// List returns up to limit chunks that may hold selected lines, in order:
	// forwards by first sequence, backwards by last, newest first.
	List(ctx context.Context, q ChunkQuery, limit int) ([]Chunk, error)
	// Count returns how many lines the selected chunks hold.
	Count(ctx context.Context, q ChunkQuery) (int64, error)
	// Newest returns the device's newest chunk of the epoch; ok is false if
	// there is none.
	Newest(ctx context.Context, epoch, device string) (c ChunkInfo, ok bool, err error)
	// Data returns the lines of a chunk; nothing if only they are missing.
	Data(ctx context.Context, id int64) ([]byte, error)
	// Lost returns what is lost of the devices, or of any if nil, in order.
	Lost(ctx context.Context, devices []string) ([]Lost, error)
}

// ChunkQuery selects chunks. The chunks that List returns have no Data.
type ChunkQuery struct {
	Devices  []string // nil: any
	Backward bool
	// Forwards: chunks that end at or after this place. Backwards: chunks that begin
	// at or before it. Nil: all.
	From *Place
	// After the first page: chunks behind the last one of the page before,
	// which began, or backwards ended, there.
	Behind     *Place
	Start, End time.Time // receive time, inclusive; zero: no bound
	Levels     LevelMask // lines of one of these levels; 0: any
	Filters    bool      // whether Chunk.Filter is wanted
}

// Place is a sequence in one of the epochs.
type Place struct {
	EpochNumber int64
	Seq         uint64
}
