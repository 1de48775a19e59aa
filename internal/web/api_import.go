package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// Bounds of imports.
const (
	maxImports      = 2                      // at once
	importAtOnce    = 8                      // lines of one: each may have to ask an identity provider
	importLineTime  = time.Minute            // of one line
	importWriteTime = 30 * time.Second       // that a client may take to read what it is told
	importFlush     = 100 * time.Millisecond // how long a client waits for what is known already
)

// importedLine is what became of a line, on the wire.
type importedLine struct {
	Line     int                   `json:"line"`
	Status   registry.ImportStatus `json:"status"`
	Key      *string               `json:"key"`
	DeviceID *int64                `json:"device_id"`
	Errors   []string              `json:"errors"`
	Warnings []string              `json:"warnings"`
}

func importedOnWire(r registry.ImportResult) importedLine {
	out := importedLine{Line: r.Line, Status: r.Status, Key: textOrNull(r.Key), Errors: r.Errors, Warnings: r.Warnings}
	if out.Errors == nil {
		out.Errors = []string{}
	}
	if out.Warnings == nil {
		out.Warnings = []string{}
	}
	if r.DeviceID != 0 {
		out.DeviceID = &r.DeviceID
	}
	return out
}

// importCounts says how many lines there are of each kind.
type importCounts struct {
	Lines    int `json:"lines"`
	OK       int `json:"ok"`
	Created  int `json:"created"`
	Exists   int `json:"exists"`
	Errors   int `json:"errors"`
	Warnings int `json:"warnings"` // lines that have some
}

func (c *importCounts) add(r registry.ImportResult) {
	c.Lines++
	switch r.Status {
	case registry.ImportOK:
		c.OK++
	case registry.ImportCreated:
		c.Created++
	case registry.ImportExists:
		c.Exists++
	default:
		c.Errors++
	}
	if len(r.Warnings) > 0 {
		c.Warnings++
	}
}

// importEnd is what an import comes to. Lines that are not among the counts were
// not looked at.
type importEnd struct {
	Counts  importCounts `json:"counts"`
	Stopped *string      `json:"stopped"` // why it ended before the file did
}

// importDevices makes devices of the lines of a CSV file. What is wrong with one
// does not keep the others from being made.
func (s *Server) importDevices(w http.ResponseWriter, r *http.Request) error {
	dry, err := queryBool(r, "dry_run")
	if err != nil {
		return err
	}
	what := audited(r.Context())
	what.silent = dry
	file, err := csvBody(w, r)
	if err != nil {
		return err
	}
	select {
	case s.importing <- struct{}{}:
		defer func() { <-s.importing }()
	default:
		return fleet.E(fleet.TooMany, nil, "%d imports are under way already", maxImports)
	}
	lines, err := registry.ReadDevices(file)
	if err != nil {
		return err
	}
	models, err := s.registry.Models(r.Context())
	if err != nil {
		return err
	}
	what.detail("lines", len(lines))

	out := newImportOutput(w, r, len(lines), dry)
	var end importEnd
	for result := range s.importLines(r, lines, models, dry, out.idle, &end) {
		end.Counts.add(result)
		out.line(result)
	}
	what.detail("created", end.Counts.Created)
	what.detail("exists", end.Counts.Exists)
	what.detail("errors", end.Counts.Errors)
	if end.Stopped != nil {
		what.detail("stopped", *end.Stopped)
		what.detail("done", end.Counts.Lines)
		s.log.WarnContext(r.Context(), "an import of devices was stopped", "lines", len(lines), "done", end.Counts.Lines, "created", end.Counts.Created, "why", *end.Stopped)
	}
	return out.end(s, end)
}

// importLines yields what becomes of each line, in order. It decides about one after
// the other and makes some at once. When the client goes, may not any more, or the
// server stops, those that were begun are finished and no other is. idle is called
// before it waits for one.
func (s *Server) importLines(r *http.Request, lines []registry.ImportLine, models []fleet.Model, dry bool, idle func(), end *importEnd) iter.Seq[registry.ImportResult] {
	return func(yield func(registry.ImportResult) bool) {
		sc := s.scope(r)
		importer := s.registry.NewImporter(sc.models(models), func(d fleet.DeviceRef) bool { return sc.sees(d) })
		var under []chan registry.ImportResult // way
		next := func() {
			var result registry.ImportResult
			select {
			case result = <-under[0]:
			default:
				idle()
				result = <-under[0]
			}
			under = under[1:]
			yield(result) // who ranges reads to the end
		}
		for _, l := range lines {
			var err error
			if sc, err = s.importGoesOn(r); err != nil {
				_, text := fleet.Public(err)
				end.Stopped = &text
				break
			}
			if len(under) == importAtOnce {
				next()
			}
			result := make(chan registry.ImportResult, 1)
			under = append(under, result)
			ctx := sc.changing(context.WithoutCancel(r.Context())) // what is begun is finished
			n, planned := importer.Plan(ctx, l)
			if dry || planned.Status != registry.ImportOK {
				result <- planned
				for dry && len(under) > 0 {
					next()
				}
				continue
			}
			go func() { result <- s.makeImported(ctx, r, importer, n, planned) }()
		}
		for len(under) > 0 {
			next()
		}
	}
}

// makeImported makes the device of a line. It goes on when the client has gone:
// half a creation would leave a client at the identity provider.
func (s *Server) makeImported(ctx context.Context, r *http.Request, importer *registry.Importer, n registry.NewDevice, planned registry.ImportResult) (made registry.ImportResult) {
	ctx, cancel := context.WithTimeout(ctx, importLineTime)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // as one of a request by itself
			s.log.ErrorContext(ctx, "panic", "route", r.Pattern, "line", planned.Line, "panic", p, "stack", string(debug.Stack()))
			_, text := fleet.Public(nil)
			made = planned
			made.Status, made.Errors = registry.ImportError, []string{text}
		}
	}()
	made = importer.Make(ctx, n, planned)
	s.recordImported(r, made)
	return made
}

// importGoesOn returns the scope of the one who imports, or why there will be no
// more lines.
func (s *Server) importGoesOn(r *http.Request) (scope, error) {
	switch {
	case r.Context().Err() != nil:
		return scope{}, fleet.E(fleet.Unavailable, r.Context().Err(), "The client has gone")
	case s.draining.Load():
		return scope{}, fleet.E(fleet.Unavailable, nil, "Signalbox is shutting down")
	}
	return s.still(r, editor)
}

// recordImported records a device that was made, as if it were made by itself.
func (s *Server) recordImported(r *http.Request, made registry.ImportResult) {
	if made.Status != registry.ImportCreated || s.identity.Accounts == nil {
		return
	}
	who, _ := access.FromContext(r.Context())
	e := new(event)
	e.about("device", made.DeviceID, made.Key)
	s.identity.Accounts.Record(context.WithoutCancel(r.Context()), access.Event{
		Actor: who.Subject, Name: cmp.Or(who.Name, who.Email), Kind: who.Kind, Action: "device.create", Target: e.target, Label: e.label,
		Outcome: "ok", Address: s.identity.Address(r), Detail: `{"import":true}`,
	})
}

// csvBody reads a body that is a table. One that is not said to be is refused,
// which keeps other sites' HTML forms out.
func csvBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != asCSV {
		return nil, fleet.E(fleet.Invalid, err, "The body must be of the type text/csv")
	}
	if c := params["charset"]; c != "" && !strings.EqualFold(c, "utf-8") {
		return nil, fleet.E(fleet.Invalid, nil, "The body must be UTF-8")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, registry.MaxImportBytes))
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fleet.E(fleet.TooLarge, err, "The request body has more than %d bytes", e.Limit)
	}
	if err != nil {
		return nil, fleet.E(fleet.Invalid, err, "The request body could not be read")
	}
	return body, nil
}

// queryBool reads a parameter that may be missing, as true or false.
func queryBool(r *http.Request, name string) (bool, error) {
	f := newForm(nil)
	if values := r.URL.Query()[name]; len(values) > 0 {
		f.fields[name] = values[0]
		return f.boolean(name), f.err()
	}
	return false, nil
}

// importOutput tells the client what becomes of the lines: at the end, or one after
// the other if it takes NDJSON.
type importOutput struct {
	w       http.ResponseWriter
	r       *http.Request
	rc      *http.ResponseController
	stream  bool
	lines   []importedLine
	buf     bytes.Buffer
	flushed time.Time
	gone    bool
}

func newImportOutput(w http.ResponseWriter, r *http.Request, total int, dry bool) *importOutput {
	o := &importOutput{w: w, r: r, rc: http.NewResponseController(w), stream: strings.Contains(r.Header.Get("Accept"), asLines), lines: []importedLine{}}
	if o.stream {
		w.Header().Set("Content-Type", asLines)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it until the end
		o.put(struct {
			Total  int  `json:"total"`
			DryRun bool `json:"dry_run"`
		}{total, dry})
		o.flush()
	}
	return o
}

func (o *importOutput) put(v any) {
	enc := json.NewEncoder(&o.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // of texts and numbers
	}
}

func (o *importOutput) line(result registry.ImportResult) {
	if !o.stream {
		o.lines = append(o.lines, importedOnWire(result))
		return
	}
	o.put(importedOnWire(result))
	if time.Since(o.flushed) >= importFlush {
		o.flush()
	}
}

// idle sends what there is, since the next line may take its time.
func (o *importOutput) idle() {
	if o.stream && o.buf.Len() > 0 {
		o.flush()
	}
}

// flush sends what there is. A client that has gone is noticed by who makes the
// lines, by the context of its request; one that only reads nothing is cut off here.
func (o *importOutput) flush() {
	o.flushed = time.Now()
	if !o.gone {
		_ = o.rc.SetWriteDeadline(time.Now().Add(importWriteTime)) // one that cannot have any, in a test, has none
		_, err := o.w.Write(o.buf.Bytes())
		o.gone = errors.Join(err, o.rc.Flush()) != nil
	}
	o.buf.Reset()
}

func (o *importOutput) end(s *Server, end importEnd) error {
	if !o.stream {
		s.writeLarge(o.w, o.r, struct {
			Lines []importedLine `json:"lines"`
			importEnd
		}{o.lines, end})
		return nil
	}
	o.put(end)
	o.flush()
	_ = o.rc.SetWriteDeadline(time.Time{}) // as in flush
	return nil
}

// exportDevices streams the devices as a CSV file, which importDevices takes.
func (s *Server) exportDevices(w http.ResponseWriter, r *http.Request) error {
	ctx, rc := r.Context(), http.NewResponseController(w)
	devices, err := s.registry.Devices(ctx, registry.DeviceFilter{})
	if err != nil {
		return err
	}
	sc := s.scope(r)
	withConfig := sc.who.Has(access.RoleEditor)
	n := 0
	e := audited(ctx)
	e.detail("configs", withConfig)
	var failed error
	each := func(yield func(registry.ExportedDevice) bool) {
		for i, d := range devices {
			if i%100 == 0 { // an answer may take its time, and rights end
				if sc, failed = s.still(r, viewer); failed != nil {
					return
				}
			}
			if !sc.sees(d.Ref()) {
				continue
			}
			out := registry.ExportedDevice{Device: d, ShowConfig: withConfig && sc.who.Has(access.RoleEditor)}
			if out.ShowConfig {
				switch whole, err := s.registry.Device(ctx, d.ID); {
				case err == nil:
					out.Device = whole
				case fleet.KindOf(err) == fleet.NotFound: // deleted meanwhile
					continue
				default:
					failed = err
					return
				}
				if !sc.sees(out.Ref()) {
					continue
				}
			}
			n++
			if !yield(out) {
				return
			}
		}
	}
	w.Header().Set("Content-Type", asCSV+"; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="devices.csv"`)
	w.Header().Set("Cache-Control", "no-store")
	gone := registry.WriteDevices(w, each, withConfig, func() error {
		_ = rc.SetWriteDeadline(time.Now().Add(exportWrite)) // one that cannot have any, in a test, has none
		return rc.Flush()
	})
	e.detail("devices", n)
	if failed != nil {
		return failed
	}
	if gone == nil {
		_ = rc.SetWriteDeadline(time.Time{}) // likewise
	}
	return nil
}
