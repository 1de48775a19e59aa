package registry

import (
	"context"
	"fmt"
	"time"

	"signalbox/internal/fleet"
)

// ImportStatus says what became of a line.
type ImportStatus string

// What becomes of lines.
const (
	ImportOK      ImportStatus = "ok"      // a device can be made of it
	ImportCreated ImportStatus = "created" // was made
	ImportExists  ImportStatus = "exists"  // there is one already, which stays as it is
	ImportError   ImportStatus = "error"   // cannot be made
)

// ImportResult is what became of a line.
type ImportResult struct {
	Line     int
	Status   ImportStatus
	Key      string // of the device; "" if there is none yet
	DeviceID int64  // likewise 0
	Errors   []string
	Warnings []string
}

// fail makes it an error.
func (r *ImportResult) fail(format string, args ...any) {
	r.Status = ImportError
	r.Errors = append(r.Errors, fmt.Sprintf(format, args...))
}

// Importer makes devices of the lines of one file. It knows what the lines before
// had, so that Plan is to be called for one line after the other.
type Importer struct {
	service  *Service
	models   map[string]int64
	sees     func(fleet.DeviceRef) bool
	entities map[string]int // lines, by what they are to make
	keys     map[string]int
}

// NewImporter returns an importer for who knows these models, and sees those
// devices.
func (s *Service) NewImporter(models []fleet.Model, sees func(fleet.DeviceRef) bool) *Importer {
	i := &Importer{s, map[string]int64{}, sees, map[string]int{}, map[string]int{}}
	for _, m := range models {
		i.models[m.Code] = m.ID
	}
	return i
}

// Plan returns what is to be made of a line, and what can be said of it before:
// ImportOK if it is to be made at all. It changes nothing. A line with a key is about
// the device with that key, and another one about that with its entity id.
func (i *Importer) Plan(ctx context.Context, l ImportLine) (NewDevice, ImportResult) {
	r := ImportResult{Line: l.Number, Status: ImportOK, Key: l.Key}
	if l.Problem != "" {
		r.fail("%s", l.Problem)
		return NewDevice{}, r
	}
	n := NewDevice{Key: l.Key}
	model, known := i.models[l.Model]
	switch {
	case l.Model == "":
		r.fail("model: is missing")
	case !known:
		r.fail("model: there is none with the code %.60q", l.Model)
	}
	n.Model = model
	var ok bool
	if n.Active, ok = isActive(l.Active); !ok {
		r.fail("active: must be true or false, not %.20q", l.Active)
	}
	var problems []string
	n.Config, problems = l.config()
	for _, p := range problems {
		r.fail("%s", p)
	}
	if l.Key != "" && i.hasKey(l, &r) || r.Status != ImportOK {
		return n, r
	}
	draft, err := i.service.draftForImport(ctx, n, l.Key == "", i.taken)
	switch {
	case err.device != nil:
		r.Status, r.Key, r.DeviceID = ImportExists, err.device.Key, err.device.ID
		return n, r
	case len(err.problems) > 0:
		for _, p := range err.problems {
			r.fail("%s", p)
		}
		return n, r
	}
	if l.Key != "" {
		i.keys[l.Key] = l.Number
	} else if draft.EntityID == nil {
		r.Warnings = append(r.Warnings, "It has neither a key nor an entity id: when it is imported again, it makes another device")
	}
	if draft.EntityID != nil {
		id := *draft.EntityID
		if line, twice := i.entities[id]; twice {
			r.Warnings = append(r.Warnings, fmt.Sprintf("entity_id: line %d has the same: log lines on the shared topic will belong to both", line))
		} else if l.Key != "" && i.taken(id) != nil {
			r.Warnings = append(r.Warnings, fmt.Sprintf("entity_id: %s has the same: log lines on the shared topic will belong to both", i.taken(id).Key))
		}
		if _, twice := i.entities[id]; !twice {
			i.entities[id] = l.Number
		}
	}
	return n, r
}

// hasKey looks at the key of a line, and reports whether there is nothing to be
// made of it.
func (i *Importer) hasKey(l ImportLine, r *ImportResult) bool {
	if line, twice := i.keys[l.Key]; twice {
		r.fail("key: line %d has the same", line)
		return true
	}
	d, there := i.service.dir.ByKey(l.Key)
	switch {
	case !there:
		return false
	case !i.sees(d):
		r.fail("key: that of another device")
	case l.Model != "" && l.Model != d.ModelCode:
		r.fail("key: that of a device of the model %s", d.ModelCode)
	case r.Status == ImportOK:
		r.Status, r.DeviceID = ImportExists, d.ID
	}
	return true
}

// taken returns a device that had the entity id before the import, nil if none
// had that the importer sees.
func (i *Importer) taken(entityID string) *fleet.DeviceRef {
	if _, own := i.entities[entityID]; own {
		return nil
	}
	for _, d := range i.service.dir.ByEntity(entityID) {
		if i.sees(d) {
			return &d
		}
	}
	return nil
}

// notDrafted is why there is no draft of a line.
type notDrafted struct {
	device   *fleet.DeviceRef // it is there already
	problems []string
}

// draftForImport is Draft with all that is wrong with a config, and for a line
// that names its device by its entity id.
func (s *Service) draftForImport(ctx context.Context, n NewDevice, byEntity bool, taken func(string) *fleet.DeviceRef) (fleet.Device, notDrafted) {
	d, err := s.Draft(ctx, n)
	if err == nil || fleet.KindOf(err) == fleet.Invalid {
		// What is there already need not be right any more: the schema may have changed.
		if value, bad := parseJSON(n.Config); bad == nil && byEntity {
			if settings, _ := extract(value); settings.entityID != nil {
				if there := taken(*settings.entityID); there != nil {
					return d, notDrafted{device: there}
				}
			}
		}
	}
	if err == nil {
		return d, notDrafted{}
	}
	if fleet.KindOf(err) == fleet.Invalid {
		if wrong, bad := s.CheckConfig(ctx, n.Model, n.Config); bad == nil && len(wrong) > 0 {
			problems := make([]string, len(wrong))
			for i, p := range wrong {
				problems[i] = "config" + p.Path + ": " + p.Message
			}
			return d, notDrafted{problems: problems}
		}
	}
	_, text := fleet.Public(err)
	return d, notDrafted{problems: []string{text}}
}

// Make makes what Plan said, and returns what came of it. Any number of lines
// may be made at once.
func (i *Importer) Make(ctx context.Context, n NewDevice, r ImportResult) ImportResult {
	d, err := i.service.Create(ctx, n)
	if err != nil {
		_, text := fleet.Public(err)
		i.service.log.WarnContext(ctx, "a device could not be imported", "line", r.Line, "err", err)
		r.fail("%s", text)
		return r
	}
	r.Status, r.Key, r.DeviceID = ImportCreated, d.Key, d.ID
	return r
}

func orBlank(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// stamp returns a time as it is written, "" if there was none.
func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
