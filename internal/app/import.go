package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/config"
	"signalbox/internal/elastic"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
)

// ImportOptions say what is imported, and from where.
type ImportOptions struct {
	URL, Username, Password string
	Index                   string    // names, with * and commas
	Since, Until            time.Time // both included; zero: no bound
	DryRun                  bool      // nothing is stored

	// Progress is told of each page.
	Progress func(ImportReport)
}

// ImportReport says what became of the documents: over the whole import, also
// that of processes before.
type ImportReport struct {
	Total    int64 `json:"total"` // documents in the end
	Read     int64 `json:"read"`
	Imported int64 `json:"imported"` // lines; a document of a shared entity id becomes several
	Here     int64 `json:"here"`     // lines of Signalbox's own that the history has, or had
	Old      int64 `json:"old"`      // beyond HISTORY_MAX_AGE
	Broken   int64 `json:"broken"`   // without a time, or no document

	Known   map[string]int64 `json:"known"`   // lines by entity id
	Unknown map[string]int64 `json:"unknown"` // documents by entity id
	Others  int64            `json:"others"`  // documents of further unknown entity ids

	Resumed int64 `json:"-"` // of Read, by processes before
}

const (
	maxUnknown  = 1000 // entity ids that are counted one by one
	importLines = 50_000
	importBytes = 32 << 20
	importEvery = time.Second // how much work a kill costs
	importTries = 60
)

// importState is what is kept between processes.
type importState struct {
	Origin string       `json:"origin"` // of the export
	Since  time.Time    `json:"since"`
	Until  time.Time    `json:"until"`
	Mark   elastic.Mark `json:"mark"`
	Report ImportReport `json:"report"`
}

// overlaps reports whether two imports are of the same lines, in part.
func (s *importState) overlaps(o *importState) bool {
	before := func(end, begin time.Time) bool { return !end.IsZero() && !begin.IsZero() && end.Before(begin) }
	return s.Origin == o.Origin && !before(s.Until, o.Since) && !before(o.Until, s.Since)
}

// importer is one run of an import.
type importer struct {
	ImportOptions
	history   *sqlstore.History
	directory *registry.Directory
	log       *slog.Logger
	epochs    map[string]int64 // that the history knows
	oldest    time.Time        // what is before is not kept
	decoder   *logs.Decoder
	builder   *logs.ChunkBuilder
	stored    sqlstore.Import // what the history has
	state     importState     // what it will have
	seq       uint64
	since     time.Time // when it was last stored
}

// Import copies documents into the history of the settings, beside a server that
// runs on them or without. When it is called again it goes on where it was. Its
// errors are fleet.Invalid for a mistake of the caller's.
func Import(ctx context.Context, cfg config.Config, o ImportOptions, log *slog.Logger) (ImportReport, error) {
	if cfg.LogsHistory != "sql" {
		return ImportReport{}, fleet.E(fleet.Invalid, nil, "LOGS_HISTORY is %s: an import is for a history that is sql", cfg.LogsHistory)
	}
	if cfg.DatabaseURL == "" {
		if _, err := os.Stat(cfg.SQLitePath()); errors.Is(err, fs.ErrNotExist) {
			return ImportReport{}, fleet.E(fleet.Invalid, nil, "There is no %s: is DATA_DIR right, and are the devices entered?", cfg.SQLitePath())
		}
	}
	client, err := elastic.New(elastic.Options{
		URL: o.URL, Username: o.Username, Password: o.Password, IndexPattern: o.Index, EntityField: cfg.LogsinkEntityField,
		Metrics: elastic.NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		return ImportReport{}, err
	}
	defer client.Close()
	db, err := sqlstore.Open(ctx, cfg.Database())
	if err != nil {
		return ImportReport{}, err
	}
	defer db.Close()
	devices, err := registry.New(ctx, db, log)
	if err != nil {
		return ImportReport{}, err
	}
	history, err := sqlstore.OpenHistory(ctx, cfg.HistoryDatabase())
	if err != nil {
		return ImportReport{}, err
	}
	defer history.Close()
	i := &importer{ImportOptions: o, history: history, directory: devices.Directory(), log: log, decoder: logs.NewDecoder(cfg.LogsinkEntityField)}
	i.decoder.Redactor = logs.NewRedactor(cfg.LogRedact == "on", cfg.LogRedactPatterns.Compile())
	if cfg.HistoryMaxAge > 0 {
		i.oldest = time.Now().Add(-time.Duration(cfg.HistoryMaxAge))
	}
	err = i.run(ctx, client)
	return i.state.Report, err
}

func (i *importer) run(ctx context.Context, client *elastic.Client) error {
	export, err := client.Export(elastic.SearchQuery{From: i.Since, To: i.Until})
	if err != nil {
		return err
	}
	if i.epochs, err = i.history.Epochs(ctx); err != nil {
		return err
	}
	i.stored = sqlstore.Import{Source: "elasticsearch " + export.Name, Epoch: "import" + export.Name}
	i.state = importState{Origin: export.Origin, Since: i.Since, Until: i.Until}
	if err := i.refuseAgain(ctx); err != nil {
		return err
	}
	if !i.DryRun {
		if i.stored, err = i.history.OpenImport(ctx, i.stored.Source, i.stored.Epoch); err != nil {
			return err
		}
	}
	if i.stored.Mark != "" {
		if err := json.Unmarshal([]byte(i.stored.Mark), &i.state); err != nil {
			return fmt.Errorf("where the import was: %w", err)
		}
	}
	r := &i.state.Report
	r.Resumed = r.Read
	if r.Known == nil {
		r.Known, r.Unknown = map[string]int64{}, map[string]int64{}
	}
	i.seq, i.since, i.builder = i.stored.Seq, time.Now(), logs.NewChunkBuilder(i.stored.Epoch)
	err = export.Run(ctx, i.state.Mark, func(page elastic.Page, mark elastic.Mark) error {
		for n := range page.Hits {
			i.take(&page.Hits[n])
		}
		i.state.Mark, r.Read, r.Total = mark, mark.Done, max(mark.Total, mark.Done)
		i.Progress(*r)
		if i.builder.Lines() >= importLines || i.builder.Bytes() >= importBytes || time.Since(i.since) >= importEvery {
			return i.store(ctx)
		}
		return nil
	})
	// What was read is worth to be kept, also when it is interrupted.
	return errors.Join(err, i.store(context.WithoutCancel(ctx)))
}

// refuseAgain keeps lines from being imported twice, by an import with other
// bounds: what each had is known by its own place only. Its error is
// fleet.Invalid.
func (i *importer) refuseAgain(ctx context.Context) error {
	all, err := i.history.Imports(ctx)
	if err != nil {
		return err
	}
	for _, other := range all {
		var had importState
		if other.Source == i.stored.Source || other.Mark == "" { // this very one, or nothing yet
			continue
		}
		if err := json.Unmarshal([]byte(other.Mark), &had); err != nil {
			return fmt.Errorf("what an import had: %w", err)
		}
		if !i.state.overlaps(&had) {
			continue
		}
		bound := func(flag string, t time.Time) string {
			if t.IsZero() {
				return "no --" + flag
			}
			return "--" + flag + " " + t.UTC().Format(time.RFC3339Nano)
		}
		return fleet.E(fleet.Invalid, nil, "Lines of these indices were imported with %s and %s already, and would be doubled: give the same bounds again to go on with that, or bounds outside of them",
			bound("since", had.Since), bound("until", had.Until))
	}
	return nil
}

// take adds the lines of a document to those that are to be stored.
func (i *importer) take(h *elastic.Hit) {
	r := &i.state.Report
	if c, err := logs.ParseLineCursor(h.Cursor); h.Cursor != "" && err == nil {
		if _, known := i.epochs[c.Epoch]; known {
			r.Here++
			return
		}
	}
	var keys []string
	if d, ok := i.directory.ByKey(h.Device); ok {
		keys = append(keys, d.Key)
	} else {
		for _, d := range i.directory.ByEntity(h.Entity) {
			keys = append(keys, d.Key)
		}
	}
	switch _, counted := r.Unknown[h.Entity]; {
	case len(keys) > 0:
	case counted || len(r.Unknown) < maxUnknown:
		r.Unknown[h.Entity]++
		return
	default:
		r.Others++
		return
	}
	if h.Time.IsZero() {
		r.Broken++
		return
	}
	if h.Time.Before(i.oldest) {
		r.Old++
		return
	}
	e, ok := h.Entry(i.decoder)
	if !ok {
		r.Broken++
		return
	}
	for _, key := range keys {
		i.seq++
		l, ok := e.Line(logs.LineCursor{Cursor: logs.Cursor{Epoch: i.stored.Epoch, Seq: i.seq}}, key, h.Time)
		if !ok {
			r.Broken++
			return
		}
		r.Imported++
		r.Known[h.Entity]++
		if !i.DryRun {
			i.builder.Add(&l)
		}
	}
}

// store stores what was taken, and how far the import has come with it.
func (i *importer) store(ctx context.Context) error {
	i.since = time.Now()
	if i.DryRun || i.state.Mark.Done == i.state.Report.Resumed && i.stored.Seq == i.seq {
		return nil
	}
	text, err := json.Marshal(i.state)
	if err != nil {
		return err
	}
	now := i.stored
	now.Mark, now.Seq = string(text), i.seq
	if now == i.stored {
		return nil
	}
	chunks, err := i.builder.Chunks(ctx, i.history)
	for try := 0; err == nil && try < importTries; try++ {
		err = i.history.StoreImport(ctx, i.stored, now, chunks)
		if fleet.KindOf(err) != fleet.Unavailable || ctx.Err() != nil {
			break
		}
		i.log.Warn("the history cannot take lines; trying again", "err", err)
		time.Sleep(time.Second) // beside the time that the database itself waits
		err = nil
	}
	if err == nil {
		i.stored = now
	}
	return err
}
