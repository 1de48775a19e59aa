package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// Import is how far an import has come.
type Import struct {
	Source string // names what is imported, from where
	Epoch  string
	Mark   string // where it goes on; "" is the beginning
	Seq    uint64 // the last that was given
}

// OpenImport returns how far the import has come. One that is new gets the epoch,
// which is entered as the oldest of all.
func (h *History) OpenImport(ctx context.Context, source, epoch string) (i Import, err error) {
	err = h.tx(ctx, func(tx *sql.Tx) error {
		if i, err = findImport(ctx, tx, source); !errors.Is(err, sql.ErrNoRows) {
			return classify(err)
		}
		i = Import{Source: source, Epoch: epoch}
		var number int64 // below 1, which is that of the first journal
		err := tx.QueryRowContext(ctx, `INSERT INTO log_epochs (number, epoch, sealed)
			SELECT CASE WHEN min(number) < 1 THEN min(number) - 1 ELSE 0 END, CAST($1 AS TEXT), 0 FROM log_epochs RETURNING number`, epoch).Scan(&number)
		if err != nil {
			return classify(err)
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO log_imports (source, epoch, mark, last_seq) VALUES ($1, $2, '', 0)", source, number)
		return classify(err)
	})
	return i, err
}

// FindImport returns how far an import has come; ok is false for one that was
// never begun.
func (h *History) FindImport(ctx context.Context, source string) (i Import, ok bool, err error) {
	i, err = findImport(ctx, h.read, source)
	if errors.Is(err, sql.ErrNoRows) {
		return Import{Source: source}, false, nil
	}
	return i, err == nil, classify(err)
}

// Imports returns all that were ever begun.
func (h *History) Imports(ctx context.Context) (all []Import, err error) {
	rows, err := h.read.QueryContext(ctx, "SELECT i.source, e.epoch, i.mark, i.last_seq FROM log_imports i JOIN log_epochs e ON e.number = i.epoch")
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var i Import
		if err := rows.Scan(&i.Source, &i.Epoch, &i.Mark, &i.Seq); err != nil {
			return nil, classify(err)
		}
		all = append(all, i)
	}
	return all, classify(rows.Err())
}

func findImport(ctx context.Context, in interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, source string) (Import, error) {
	i := Import{Source: source}
	err := in.QueryRowContext(ctx, "SELECT e.epoch, i.mark, i.last_seq FROM log_imports i JOIN log_epochs e ON e.number = i.epoch WHERE i.source = $1", source).
		Scan(&i.Epoch, &i.Mark, &i.Seq)
	return i, err
}

// StoreImport stores chunks of an import and how far it has come with them, all
// or nothing. before is how far it was. Its error is fleet.InvalidOperation if
// it was not: another process goes on with the same import.
func (h *History) StoreImport(ctx context.Context, before, now Import, chunks []logs.Chunk) error {
	return h.tx(ctx, func(tx *sql.Tx) error {
		var number int64
		err := tx.QueryRowContext(ctx, "UPDATE log_imports SET mark = $1, last_seq = $2 WHERE source = $3 AND mark = $4 AND last_seq = $5 RETURNING epoch",
			now.Mark, now.Seq, now.Source, before.Mark, before.Seq).Scan(&number)
		if errors.Is(err, sql.ErrNoRows) {
			return fleet.ErrOperation("go on with the import", "another process does")
		}
		if err != nil {
			return classify(err)
		}
		if err := insertChunks(ctx, tx, number, chunks); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE log_epochs SET sealed = $1 WHERE number = $2", now.Seq, number)
		return classify(err)
	})
}

// Epochs returns the epochs that are known.
func (h *History) Epochs(ctx context.Context) (epochs map[string]int64, err error) {
	err = h.View(ctx, func(v logs.ChunkView) error {
		epochs, err = v.Epochs(ctx)
		return err
	})
	return epochs, err
}
