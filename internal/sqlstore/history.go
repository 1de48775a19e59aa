package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// History is an open database of sealed log lines. It implements logs.Chunks.
//
// Its SQL is written here and not generated: which chunks are wanted depends on
// too much for fixed queries, and the rest is few lines.
type History struct {
	*database
	postgres bool
	filters  filterCache

	mu         sync.Mutex
	epochs     map[string]int64     // by name; never changed, only replaced
	statements map[string]*sql.Stmt // of the reading connections, by their text; SQLite
}

var _ logs.Chunks = (*History)(nil)

// OpenHistory opens the history that dsn names, as Open does. In PostgreSQL it
// may share the database of the devices; for SQLite it has a file of its own,
// so that writing lines does not hold up anything else.
func OpenHistory(ctx context.Context, dsn string) (*History, error) {
	d, err := open(ctx, dsn, schema{
		dir: "history", table: "history_" + goose.DefaultTablename,
		layout:  []string{"_pragma=page_size(8192)", "_pragma=auto_vacuum(2)"}, // incremental: Reclaim does it
		pragmas: []string{"_pragma=cache_size(-16384)"},
	})
	if err != nil {
		return nil, err
	}
	return &History{database: d, postgres: d.read == d.write, statements: map[string]*sql.Stmt{}}, nil
}

// Sealed implements logs.Chunks.
func (h *History) Sealed(ctx context.Context, epoch string) (upTo uint64, beyond map[string]uint64, err error) {
	err = h.tx(ctx, func(tx *sql.Tx) error {
		var number int64
		err := tx.QueryRowContext(ctx, "SELECT number, sealed FROM log_epochs WHERE epoch = $1", epoch).Scan(&number, &upTo)
		if errors.Is(err, sql.ErrNoRows) {
			_, err = tx.ExecContext(ctx, "INSERT INTO log_epochs (number, epoch, sealed) SELECT COALESCE(max(number), 0) + 1, CAST($1 AS TEXT), 0 FROM log_epochs", epoch)
			return classify(err)
		}
		if err != nil {
			return classify(err)
		}
		beyond = map[string]uint64{}
		return each(ctx, tx, func(row *sql.Rows) error {
			var device string
			var last uint64
			if err := row.Scan(&device, &last); err != nil {
				return err
			}
			beyond[device] = max(beyond[device], last)
			return nil
		}, "SELECT device, last_seq FROM log_chunks WHERE epoch = $1 AND last_seq > $2", number, upTo)
	})
	return upTo, beyond, err
}

// queryer is a transaction or a view.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// each runs a query and calls f for each of its rows.
func each(ctx context.Context, in queryer, f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := in.QueryContext(ctx, query, args...)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return classify(err)
		}
	}
	return classify(rows.Err())
}

// Seal implements logs.Chunks.
func (h *History) Seal(ctx context.Context, epoch string, upTo uint64, chunks []logs.Chunk, lost []logs.Lost) error {
	return h.tx(ctx, func(tx *sql.Tx) error {
		var number int64
		if err := tx.QueryRowContext(ctx, "SELECT number FROM log_epochs WHERE epoch = $1", epoch).Scan(&number); err != nil {
			return classify(err)
		}
		if err := insertChunks(ctx, tx, number, chunks); err != nil {
			return err
		}
		for _, l := range lost {
			l.EpochNumber = number
			if err := insertLost(ctx, tx, l); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE log_epochs SET sealed = $1 WHERE number = $2", upTo, number)
		return classify(err)
	})
}

func insertChunks(ctx context.Context, tx *sql.Tx, epoch int64, chunks []logs.Chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	var replaced []int64
	for i := range chunks {
		if chunks[i].Replaces != 0 {
			replaced = append(replaced, chunks[i].Replaces)
		}
	}
	if err := deleteChunks(ctx, tx, replaced); err != nil {
		return err
	}
	var id int64
	if err := tx.QueryRowContext(ctx, "UPDATE log_ids SET last_id = last_id + $1 WHERE name = 'chunks' RETURNING last_id", len(chunks)).Scan(&id); err != nil {
		return classify(err)
	}
	id -= int64(len(chunks)) - 1 // the first of them
	err := insert(ctx, tx, "log_chunks (id, device, epoch, first_seq, last_seq, least_at, most_at, lines, bytes, stored, levels)", 11, len(chunks), func(i int) []any {
		c := &chunks[i]
		return []any{id + int64(i), c.Device, epoch, c.First, c.Last, c.Least.UnixMicro(), c.Most.UnixMicro(), c.Lines, c.Bytes, c.Stored, c.Levels}
	})
	if err != nil {
		return err
	}
	err = insert(ctx, tx, "log_filters (chunk, filter)", 2, len(chunks), func(i int) []any {
		if chunks[i].Filter == nil {
			return nil
		}
		return []any{id + int64(i), chunks[i].Filter}
	})
	if err != nil {
		return err
	}
	return insert(ctx, tx, "log_data (chunk, data)", 2, len(chunks), func(i int) []any { return []any{id + int64(i), chunks[i].Data} })
}

// insert adds n rows to a table; a row that is nil is left out.
func insert(ctx context.Context, tx *sql.Tx, into string, columns, n int, row func(int) []any) error {
	statement, err := tx.PrepareContext(ctx, "INSERT INTO "+into+" VALUES ("+marks(1, columns)+")")
	if err != nil {
		return classify(err)
	}
	defer statement.Close()
	for i := range n {
		values := row(i)
		if values == nil {
			continue
		}
		if _, err := statement.ExecContext(ctx, values...); err != nil {
			return classify(err)
		}
	}
	return nil
}

// deleteChunks deletes chunks from all three tables.
func deleteChunks(ctx context.Context, tx *sql.Tx, ids []int64) error {
	for part := range slices.Chunk(ids, 500) {
		args := make([]any, len(part))
		for i, id := range part {
			args[i] = id
		}
		for _, from := range []string{"log_chunks WHERE id", "log_filters WHERE chunk", "log_data WHERE chunk"} {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+from+" IN ("+marks(1, len(args))+")", args...); err != nil {
				return classify(err)
			}
		}
	}
	return nil
}

// marks returns n placeholders: "$3, $4" is marks(3, 2).
func marks(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

func insertLost(ctx context.Context, tx *sql.Tx, l logs.Lost) error {
	micro := func(t time.Time) sql.NullInt64 { return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()} }
	_, err := tx.ExecContext(ctx, `INSERT INTO log_lost (device, epoch, from_seq, to_seq, reason, least_at, most_at, lines)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (device, epoch, from_seq, reason) DO UPDATE SET to_seq = excluded.to_seq, most_at = excluded.most_at, lines = excluded.lines`,
		l.Device, l.EpochNumber, l.From, l.To, l.Reason, micro(l.Least), micro(l.Most), l.Lines)
	return classify(err)
}

// View implements logs.Chunks.
func (h *History) View(ctx context.Context, f func(logs.ChunkView) error) error {
	var options *sql.TxOptions
	if h.postgres { // SQLite's transactions are that anyway
		options = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	tx, err := h.read.BeginTx(ctx, options)
	if err != nil {
		return classify(err)
	}
	v := &view{History: h, tx: tx}
	err = f(v)
	_ = tx.Rollback() // nothing was written
	h.prepare(ctx, v.unprepared)
	return err
}

// view implements logs.ChunkView.
type view struct {
	*History
	tx         *sql.Tx
	names      map[int64]string // of the epochs, by number
	unprepared []string         // queries that were run and are not prepared
}

// maxStatements bounds the queries that are kept prepared. They differ in their
// conditions, and in the number of devices they ask for.
const maxStatements = 64

// QueryContext runs a query in the view. To SQLite, reading the text of a query
// is as much work as a short answer to it, so queries are kept prepared.
// PostgreSQL's driver does so by itself.
func (v *view) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	v.mu.Lock()
	statement := v.statements[query]
	v.mu.Unlock()
	if statement != nil {
		return v.tx.StmtContext(ctx, statement).QueryContext(ctx, args...) //nolint:sqlclosecheck // it ends with its transaction
	}
	if !v.postgres {
		v.unprepared = append(v.unprepared, query)
	}
	return v.tx.QueryContext(ctx, query, args...)
}

// prepare prepares queries for the views to come. It takes a connection, so
// whoever holds one must not wait for it: two who do could wait for each other.
func (h *History) prepare(ctx context.Context, queries []string) {
	for _, query := range queries {
		h.mu.Lock()
		done := h.statements[query] != nil || len(h.statements) >= maxStatements
		h.mu.Unlock()
		if done {
			continue
		}
		statement, err := h.read.PrepareContext(ctx, query)
		if err != nil {
			return // the next view tries again
		}
		h.mu.Lock()
		old := h.statements[query]
		if old == nil {
			h.statements[query] = statement
		}
		h.mu.Unlock()
		if old != nil { // somebody was faster
			_ = statement.Close() //nolint:sqlclosecheck // and the one that is kept is closed with the history
		}
	}
}

// name returns the name of an epoch. Epochs are few and stay, so they are read
// when there is one that is not known.
func (v *view) name(ctx context.Context, number int64) (string, error) {
	if name, ok := v.names[number]; ok {
		return name, nil
	}
	for range 2 {
		v.mu.Lock()
		epochs := v.epochs
		v.mu.Unlock()
		v.names = make(map[int64]string, len(epochs))
		for name, n := range epochs {
			v.names[n] = name
		}
		if name, ok := v.names[number]; ok {
			return name, nil
		}
		if _, err := v.Epochs(ctx); err != nil {
			return "", err
		}
	}
	return "", fleet.E(fleet.Internal, nil, "epoch %d has no name", number)
}

// Epochs implements logs.ChunkView.
func (v *view) Epochs(ctx context.Context) (map[string]int64, error) {
	epochs := map[string]int64{}
	err := each(ctx, v, func(row *sql.Rows) error {
		var epoch string
		var number int64
		if err := row.Scan(&epoch, &number); err != nil {
			return err
		}
		epochs[epoch] = number
		return nil
	}, "SELECT epoch, number FROM log_epochs")
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.epochs = epochs
	v.mu.Unlock()
	return maps.Clone(epochs), nil
}

const selectInfo = `SELECT c.id, c.device, c.epoch, c.first_seq, c.last_seq, c.least_at, c.most_at, c.lines, c.bytes, c.stored, c.levels FROM log_chunks c`

// scanInfo reads what selectInfo gives; Epoch is left to the caller.
func scanInfo(c *logs.ChunkInfo, scan func(...any) error) error {
	var least, most int64
	err := scan(&c.ID, &c.Device, &c.EpochNumber, &c.First, &c.Last, &least, &most, &c.Lines, &c.Bytes, &c.Stored, &c.Levels)
	c.Least, c.Most = time.UnixMicro(least).UTC(), time.UnixMicro(most).UTC()
	return err
}

// where gathers conditions and their arguments.
type where struct {
	terms []string
	args  []any
}

// and adds a condition, in which each ? stands for the next of args.
func (w *where) and(term string, args ...any) {
	var b strings.Builder
	for _, c := range term {
		if c != '?' {
			b.WriteRune(c)
			continue
		}
		w.args = append(w.args, args[0])
		args = args[1:]
		fmt.Fprintf(&b, "$%d", len(w.args))
	}
	w.terms = append(w.terms, b.String())
}

// devices adds the condition that a column is one of them; nil is any.
func (w *where) devices(column string, devices []string) {
	if devices == nil {
		return
	}
	if len(devices) == 0 {
		w.and("1 = 0")
		return
	}
	if len(devices) == 1 {
		w.and(column+" = ?", devices[0])
		return
	}
	args := make([]any, len(devices))
	for i, d := range devices {
		args[i] = d
	}
	w.and(column+" IN (?"+strings.Repeat(", ?", len(devices)-1)+")", args...)
}

func (w *where) String() string {
	if len(w.terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.terms, " AND ")
}

// selected is the condition that a chunk is selected, and the order of List.
func selected(q logs.ChunkQuery) (w where, order string) {
	w.devices("c.device", q.Devices)
	order = "c.epoch, c.first_seq"
	if q.Backward {
		order = "c.epoch DESC, c.last_seq DESC"
		if q.From != nil {
			w.and("(c.epoch < ? OR c.epoch = ? AND c.first_seq <= ?)", q.From.EpochNumber, q.From.EpochNumber, q.From.Seq)
		}
		if q.Behind != nil {
			w.and("(c.epoch, c.last_seq) < (?, ?)", q.Behind.EpochNumber, q.Behind.Seq)
		}
	} else {
		if q.From != nil {
			w.and("(c.epoch, c.last_seq) >= (?, ?)", q.From.EpochNumber, q.From.Seq)
		}
		if q.Behind != nil {
			w.and("(c.epoch, c.first_seq) > (?, ?)", q.Behind.EpochNumber, q.Behind.Seq)
		}
	}
	if !q.Start.IsZero() {
		w.and("c.most_at >= ?", q.Start.UnixMicro())
	}
	if !q.End.IsZero() {
		w.and("c.least_at <= ?", q.End.UnixMicro())
	}
	if q.Levels != 0 {
		w.and("c.levels & ? <> 0", int64(q.Levels))
	}
	return w, order
}

// Count implements logs.ChunkView.
func (v *view) Count(ctx context.Context, q logs.ChunkQuery) (lines int64, err error) {
	w, _ := selected(q)
	err = v.tx.QueryRowContext(ctx, "SELECT CAST(COALESCE(sum(c.lines), 0) AS BIGINT) FROM log_chunks c"+w.String(), w.args...).Scan(&lines)
	return lines, classify(err)
}

// List implements logs.ChunkView.
func (v *view) List(ctx context.Context, q logs.ChunkQuery, limit int) ([]logs.Chunk, error) {
	w, order := selected(q)
	var chunks []logs.Chunk
	err := each(ctx, v, func(row *sql.Rows) error {
		var c logs.Chunk
		err := scanInfo(&c.ChunkInfo, row.Scan)
		chunks = append(chunks, c)
		return err
	}, selectInfo+w.String()+" ORDER BY "+order+fmt.Sprintf(" LIMIT %d", limit), w.args...)
	if err != nil {
		return nil, err
	}
	for i := range chunks {
		if chunks[i].Epoch, err = v.name(ctx, chunks[i].EpochNumber); err != nil {
			return nil, err
		}
	}
	if q.Filters {
		err = v.addFilters(ctx, chunks)
	}
	return chunks, err
}

// addFilters fills in the chunks' filters.
func (v *view) addFilters(ctx context.Context, chunks []logs.Chunk) error {
	var unknown []any
	at := map[int64]int{}
	for i := range chunks {
		var ok bool
		if chunks[i].Filter, ok = v.filters.get(chunks[i].ID); !ok {
			unknown = append(unknown, chunks[i].ID)
			at[chunks[i].ID] = i
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return each(ctx, v, func(row *sql.Rows) error {
		var id int64
		var filter []byte
		if err := row.Scan(&id, &filter); err != nil {
			return err
		}
		chunks[at[id]].Filter = filter
		v.filters.put(id, filter)
		return nil
	}, "SELECT chunk, filter FROM log_filters WHERE chunk IN ("+marks(1, len(unknown))+")", unknown...)
}

// filterCache holds filters of chunks, which never change, in memory: a search
// of the whole fleet needs all of them. When it is full, any one makes room, so
// that a history of twice its size finds half of its filters here.
type filterCache struct {
	mu    sync.Mutex
	byID  map[int64][]byte
	bytes int
}

const filterCacheBytes = 64 << 20

func (c *filterCache) get(id int64) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.byID[id]
	return f, ok
}

func (c *filterCache) put(id int64, filter []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID == nil {
		c.byID = map[int64][]byte{}
	}
	if _, ok := c.byID[id]; ok {
		return
	}
	c.byID[id] = filter
	c.bytes += len(filter)
	for other, f := range c.byID { // in no order
		if c.bytes <= filterCacheBytes {
			break
		}
		delete(c.byID, other)
		c.bytes -= len(f)
	}
}

// Newest implements logs.ChunkView.
func (v *view) Newest(ctx context.Context, epoch, device string) (c logs.ChunkInfo, ok bool, err error) {
	c.Epoch = epoch
	row := v.tx.QueryRowContext(ctx, selectInfo+" WHERE c.device = $1 AND c.epoch = (SELECT number FROM log_epochs WHERE epoch = $2) ORDER BY c.last_seq DESC LIMIT 1", device, epoch)
	switch err := scanInfo(&c, row.Scan); {
	case errors.Is(err, sql.ErrNoRows):
		return c, false, nil
	case err != nil:
		return c, false, classify(err)
	}
	return c, true, nil
}

// Data implements logs.ChunkView.
func (v *view) Data(ctx context.Context, id int64) (data []byte, err error) {
	err = each(ctx, v, func(row *sql.Rows) error {
		var driver sql.RawBytes // so that it is copied once
		err := row.Scan(&driver)
		data = bytes.Clone(driver)
		return err
	}, "SELECT data FROM log_data WHERE chunk = $1", id)
	return data, err
}

// Lost implements logs.ChunkView.
func (v *view) Lost(ctx context.Context, devices []string) ([]logs.Lost, error) {
	var w where
	if devices != nil {
		w.devices("l.device", append([]string{""}, devices...))
	}
	lost, err := listLost(ctx, v, &w)
	for i := range lost {
		if lost[i].Epoch, err = v.name(ctx, lost[i].EpochNumber); err != nil {
			return nil, err
		}
	}
	return lost, err
}

// listLost leaves the names of the epochs to the caller.
func listLost(ctx context.Context, in queryer, w *where) (lost []logs.Lost, err error) {
	err = each(ctx, in, func(row *sql.Rows) error {
		var l logs.Lost
		var least, most sql.NullInt64
		if err := row.Scan(&l.Device, &l.EpochNumber, &l.From, &l.To, &l.Reason, &least, &most, &l.Lines); err != nil {
			return err
		}
		if least.Valid {
			l.Least, l.Most = time.UnixMicro(least.Int64).UTC(), time.UnixMicro(most.Int64).UTC()
		}
		lost = append(lost, l)
		return nil
	}, "SELECT l.device, l.epoch, l.from_seq, l.to_seq, l.reason, l.least_at, l.most_at, l.lines FROM log_lost l"+
		w.String()+" ORDER BY l.epoch, l.from_seq, l.device", w.args...)
	return lost, err
}

// Expire implements logs.Chunks.
func (h *History) Expire(ctx context.Context, devices []string, before time.Time, limit int) (logs.Usage, error) {
	return h.delete(ctx, devices, limit, func(w *where) { w.and("c.most_at < ?", before.UnixMicro()) }, nil)
}

// Shrink implements logs.Chunks.
func (h *History) Shrink(ctx context.Context, devices []string, bytes int64, limit int) (logs.Usage, error) {
	return h.delete(ctx, devices, limit, func(*where) {}, func(u logs.Usage) bool { return u.Bytes >= bytes })
}

// delete deletes the oldest chunks that are selected, until enough is true.
func (h *History) delete(ctx context.Context, devices []string, limit int, more func(*where), enough func(logs.Usage) bool) (gone logs.Usage, err error) {
	err = h.tx(ctx, func(tx *sql.Tx) error {
		gone = logs.Usage{}
		var w where
		w.devices("c.device", devices)
		more(&w)
		var chunks []logs.ChunkInfo
		err := each(ctx, tx, func(row *sql.Rows) error {
			var c logs.ChunkInfo
			if err := scanInfo(&c, row.Scan); err != nil || enough != nil && enough(gone) {
				return err
			}
			gone.Chunks, gone.Lines, gone.Bytes = gone.Chunks+1, gone.Lines+int64(c.Lines), gone.Bytes+int64(c.Stored)
			chunks = append(chunks, c)
			return nil
		}, selectInfo+w.String()+
			fmt.Sprintf(" ORDER BY c.most_at LIMIT %d", limit), w.args...)
		if err != nil {
			return err
		}
		ids := make([]int64, len(chunks))
		for i, c := range chunks {
			ids[i] = c.ID
		}
		if err := deleteChunks(ctx, tx, ids); err != nil {
			return err
		}
		return noteLost(ctx, tx, chunks)
	})
	return gone, err
}

// noteLost notes that chunks are gone. What is gone before everything that a
// device still has is one entry.
func noteLost(ctx context.Context, tx *sql.Tx, chunks []logs.ChunkInfo) error {
	type of struct {
		device string
		epoch  int64
	}
	devices := map[of][]logs.ChunkInfo{}
	for _, c := range chunks {
		k := of{c.Device, c.EpochNumber}
		devices[k] = append(devices[k], c)
	}
	for k, gone := range devices {
		var kept sql.NullInt64
		err := tx.QueryRowContext(ctx, "SELECT min(first_seq) FROM log_chunks WHERE device = $1 AND epoch = $2", k.device, k.epoch).Scan(&kept)
		if err != nil {
			return classify(err)
		}
		var w where
		w.and("l.device = ? AND l.epoch = ? AND l.reason = ?", k.device, k.epoch, logs.LostRetention)
		lost, err := listLost(ctx, tx, &w)
		if err != nil {
			return err
		}
		for _, c := range gone {
			lost = append(lost, logs.Lost{Device: k.device, EpochNumber: k.epoch, From: c.First - 1, To: c.Last, Least: c.Least, Most: c.Most, Lines: c.Lines, Reason: logs.LostRetention})
		}
		slices.SortFunc(lost, func(a, b logs.Lost) int { return int(int64(a.From) - int64(b.From)) })
		joined := lost[:1]
		for _, l := range lost[1:] {
			last := &joined[len(joined)-1]
			if kept.Valid && l.To >= uint64(kept.Int64) {
				joined = append(joined, l)
				continue
			}
			last.To, last.Lines = l.To, last.Lines+l.Lines
			if l.Least.Before(last.Least) {
				last.Least = l.Least
			}
			if l.Most.After(last.Most) {
				last.Most = l.Most
			}
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM log_lost WHERE device = $1 AND epoch = $2 AND reason = $3", k.device, k.epoch, logs.LostRetention); err != nil {
			return classify(err)
		}
		for _, l := range joined {
			if err := insertLost(ctx, tx, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// Forget implements logs.Chunks.
func (h *History) Forget(ctx context.Context, device string) error {
	return h.tx(ctx, func(tx *sql.Tx) error {
		var ids []int64
		err := each(ctx, tx, func(row *sql.Rows) error {
			var id int64
			err := row.Scan(&id)
			ids = append(ids, id)
			return err
		}, "SELECT id FROM log_chunks WHERE device = $1", device)
		if err != nil {
			return err
		}
		if err := deleteChunks(ctx, tx, ids); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM log_lost WHERE device = $1", device)
		return classify(err)
	})
}

// Usage implements logs.Chunks.
func (h *History) Usage(ctx context.Context, devices []string) (u logs.Usage, err error) {
	var w where
	w.devices("c.device", devices)
	var oldest sql.NullInt64
	err = h.read.QueryRowContext(ctx, "SELECT count(*), CAST(COALESCE(sum(c.lines), 0) AS BIGINT), CAST(COALESCE(sum(c.stored), 0) AS BIGINT), min(c.least_at) FROM log_chunks c"+w.String(), w.args...).
		Scan(&u.Chunks, &u.Lines, &u.Bytes, &oldest)
	if oldest.Valid {
		u.Oldest = time.UnixMicro(oldest.Int64).UTC()
	}
	return u, classify(err)
}

// Reclaim implements logs.Chunks. PostgreSQL does it by itself.
func (h *History) Reclaim(ctx context.Context) (more bool, err error) {
	if h.postgres {
		return false, nil
	}
	if _, err := h.write.ExecContext(ctx, "PRAGMA incremental_vacuum(512)"); err != nil { // 4 MiB
		return false, classify(err)
	}
	var free int
	err = h.write.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free)
	return free > 0, classify(err)
}
