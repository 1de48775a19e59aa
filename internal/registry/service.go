package registry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
)

const (
	keyAttempts = 3 // a third collision in 2^40 keys is not chance

	// syncTimeout bounds the look at the store after a commit whose outcome is
	// not known.
	syncTimeout = 5 * time.Second
)

// ChangeKind says what happened to a device.
type ChangeKind uint8

// The kinds of change.
const (
	Created ChangeKind = iota + 1
	Updated
	Deleted
)

// String returns the kind in lower case.
func (k ChangeKind) String() string {
	switch k {
	case Created:
		return "created"
	case Updated:
		return "updated"
	case Deleted:
		return "deleted"
	}
	return "unknown"
}

// Change is one committed change of one device.
type Change struct {
	Kind   ChangeKind
	Before fleet.DeviceRef // zero when created
	After  fleet.DeviceRef // zero when deleted; may equal Before, as when only the config's other parts changed
}

// Service applies the rules of the registry. All its methods may be called by
// any number of goroutines; its errors are fleet errors.
type Service struct {
	store  Store
	log    *slog.Logger
	now    func() time.Time
	newKey func() string
	dir    *Directory

	issuer     Issuer // nil: devices have no clients
	registerer prometheus.Registerer
	issuing    *issuerMetrics
	settling   fleet.Turns[int64] // by device id
	wake       chan struct{}      // has room for one: there is work for Run

	// writing holds a token while a change is made, from the transaction to the
	// last observer: that is what keeps the directory and the observers in the
	// order of the commits. A channel, so that waiting ends with the context.
	writing chan struct{}
	stale   bool // a commit's outcome is unknown; guarded by writing

	mu        sync.Mutex
	observers []func(context.Context, Change)
}

// Option changes a Service from its default.
type Option func(*Service)

// WithClock sets where the service takes the time from; the default is time.Now.
func WithClock(now func() time.Time) Option { return func(s *Service) { s.now = now } }

// WithKeys sets where the keys of new devices come from; the default is
// fleet.NewKey.
func WithKeys(newKey func() string) Option { return func(s *Service) { s.newKey = newKey } }

// New returns a service over the store and loads the directory from it.
func New(ctx context.Context, store Store, log *slog.Logger, options ...Option) (*Service, error) {
	s := &Service{
		store:   store,
		log:     log,
		now:     time.Now,
		newKey:  fleet.NewKey,
		dir:     newDirectory(),
		writing: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
	}
	for _, option := range options {
		option(s)
	}
	s.issuing = newIssuerMetrics(s.registerer)
	if err := s.readTags(ctx); err != nil {
		return nil, fmt.Errorf("read the tags of devices: %w", err)
	}
	if err := s.Sync(ctx); err != nil {
		return nil, fmt.Errorf("load devices: %w", err)
	}
	return s, nil
}

// Directory returns the index of the devices, which lives as long as the service.
func (s *Service) Directory() *Directory { return s.dir }

// Observe has f told of every change from now on: after its commit, one at a
// time and in the order of the commits, on the goroutine that made it and
// before its caller is answered. The directory shows the change already, except
// that a new device is only found by its id: no line can be taken for it before
// everyone knows it. f must be quick and must not change devices itself; the context is not
// cancelled when the caller goes away. A panic of f is logged and goes no further.
func (s *Service) Observe(f func(context.Context, Change)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers = append(slices.Clone(s.observers), f)
}

// Sync compares the directory with the store, corrects it, and tells the
// observers the difference: for changes that another process made.
func (s *Service) Sync(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	return s.syncLocked(ctx)
}

func (s *Service) syncLocked(ctx context.Context) error {
	devices, err := s.store.Devices(ctx, DeviceFilter{})
	if err != nil {
		return err
	}
	s.stale = false
	stored := make(map[int64]bool, len(devices))
	for i := range devices {
		stored[devices[i].ID] = true
	}
	for _, before := range s.dir.All() {
		if !stored[before.ID] {
			s.announce(ctx, Change{Kind: Deleted, Before: before})
		}
	}
	slices.SortFunc(devices, func(a, b fleet.Device) int { return cmp.Compare(a.ID, b.ID) })
	for i := range devices {
		after := devices[i].Ref()
		switch before, known := s.dir.ByID(after.ID); {
		case !known:
			s.announce(ctx, Change{Kind: Created, After: after})
		case before != after:
			s.announce(ctx, Change{Kind: Updated, Before: before, After: after})
		}
	}
	return nil
}

// Models returns all models by code.
func (s *Service) Models(ctx context.Context) ([]fleet.Model, error) { return s.store.Models(ctx) }

// Model returns one model; fleet.NotFound if it does not exist.
func (s *Service) Model(ctx context.Context, id int64) (fleet.Model, error) {
	return s.store.Model(ctx, id)
}

// NewModel is what a model is made of.
type NewModel struct {
	Code         string  // 1..50 of [a-z0-9_]
	Name         string  // 1..255 characters, not all blank
	ConfigSchema *string // JSON Schema; nil or blank accepts any config
}

var modelCode = regexp.MustCompile(`^[a-z0-9_]{1,50}$`)

// CreateModel stores a new model. Errors: fleet.Invalid, fleet.Exists.
func (s *Service) CreateModel(ctx context.Context, n NewModel) (fleet.Model, error) {
	if !modelCode.MatchString(n.Code) {
		return fleet.Model{}, fleet.E(fleet.Invalid, nil, "code must be 1 to 50 characters of a-z, 0-9 and _")
	}
	if err := checkModelName(n.Name); err != nil {
		return fleet.Model{}, err
	}
	schema, err := checkSchema(n.ConfigSchema)
	if err != nil {
		return fleet.Model{}, err
	}
	now := s.clock()
	m := fleet.Model{Code: n.Code, Name: n.Name, ConfigSchema: schema, CreatedAt: now, UpdatedAt: now}
	_, err = s.write(ctx, func(q Queries) (Change, error) {
		id, err := q.InsertModel(ctx, m)
		m.ID = id
		return Change{}, err
	})
	if err != nil {
		return fleet.Model{}, err
	}
	return m, nil
}

// ModelChange is what can change of a model; a nil field stays as it is.
type ModelChange struct {
	Name         *string // 1..255 characters, not all blank
	ConfigSchema *string // JSON Schema; blank removes the schema
}

// UpdateModel changes a model. Devices keep the configs they have, and a new
// schema binds the next change of each. Errors: fleet.Invalid, fleet.NotFound.
func (s *Service) UpdateModel(ctx context.Context, id int64, change ModelChange) (fleet.Model, error) {
	if change.Name != nil {
		if err := checkModelName(*change.Name); err != nil {
			return fleet.Model{}, err
		}
	}
	schema, err := checkSchema(change.ConfigSchema)
	if err != nil {
		return fleet.Model{}, err
	}
	var m fleet.Model
	_, err = s.write(ctx, func(q Queries) (_ Change, err error) {
		if m, err = q.Model(ctx, id); err != nil {
			return Change{}, err
		}
		if change.Name != nil {
			m.Name = *change.Name
		}
		if change.ConfigSchema != nil {
			m.ConfigSchema = schema
		}
		m.UpdatedAt = s.clock()
		return Change{}, q.UpdateModel(ctx, m)
	})
	if err != nil {
		return fleet.Model{}, err
	}
	return m, nil
}

// DeleteModel removes a model that has no devices. Errors: fleet.NotFound,
// fleet.InvalidOperation.
func (s *Service) DeleteModel(ctx context.Context, id int64) error {
	_, err := s.write(ctx, func(q Queries) (Change, error) {
		m, err := q.Model(ctx, id)
		if err != nil {
			return Change{}, err
		}
		if m.DeviceCount > 0 {
			return Change{}, fleet.ErrOperation("delete device model", "model has %d associated device(s)", m.DeviceCount)
		}
		return Change{}, q.DeleteModel(ctx, id)
	})
	return err
}

// Devices returns the devices that pass the filter, by key, without their Config.
func (s *Service) Devices(ctx context.Context, filter DeviceFilter) ([]fleet.Device, error) {
	return s.store.Devices(ctx, filter)
}

// Device returns one device; fleet.NotFound if it does not exist.
func (s *Service) Device(ctx context.Context, id int64) (fleet.Device, error) {
	return s.store.Device(ctx, id)
}

// CheckConfig returns everything that would keep a config from being saved for
// a device of the model; nothing means that it can be. At most MaxProblems are
// told. Errors: fleet.NotFound for the model.
func (s *Service) CheckConfig(ctx context.Context, modelID int64, config string) ([]Problem, error) {
	m, err := s.store.BareModel(ctx, modelID)
	if err != nil {
		return nil, err
	}
	value, err := parseJSON(config)
	if err != nil {
		return []Problem{{"", err.Error()}}, nil
	}
	refused, err := checkConfig(m.ConfigSchema, value)
	if err != nil {
		return nil, err
	}
	_, wrong := extract(value)
	if refused != nil {
		wrong = append(problems(refused), wrong...)
	}
	return wrong[:min(len(wrong), MaxProblems)], nil
}

// CreateDevice stores a new active device with a fresh key. config is JSON text
// that satisfies the model's schema, and is kept as it is. Its client at the
// issuer is there before the device is. Errors: fleet.Invalid, fleet.NotFound for
// the model, fleet.External for the issuer.
func (s *Service) CreateDevice(ctx context.Context, modelID int64, config string) (fleet.Device, error) {
	return s.Create(ctx, NewDevice{Model: modelID, Config: config, Active: true})
}

// UpdateDevice replaces a device's config and active flag. If its name changes,
// the issuer is told first, and nothing changes when it cannot be. Errors:
// fleet.Invalid, fleet.NotFound, fleet.External for the issuer.
func (s *Service) UpdateDevice(ctx context.Context, id int64, config string, active bool) (fleet.Device, error) {
	d, err := s.store.Device(ctx, id)
	if err != nil {
		return fleet.Device{}, err
	}
	m, err := s.store.BareModel(ctx, d.Model.ID)
	if err != nil {
		return fleet.Device{}, err
	}
	settings, err := readConfig(m, config)
	if err != nil {
		return fleet.Device{}, err
	}
	then := d
	then.Name = settings.name
	client, pushed, err := s.push(ctx, &d, &then)
	if err != nil {
		return fleet.Device{}, err
	}
	ch, err := s.write(ctx, func(q Queries) (_ Change, err error) {
		if d, err = q.Device(ctx, id); err != nil {
			return Change{}, err
		}
		old, before := d, d.Ref()
		d.Config, d.Active = config, active
		d.Name, d.EntityID, d.EnableOTA, d.Tags = settings.name, settings.entityID, settings.enableOTA, settings.tags
		d.UpdatedAt = s.clock()
		if err := q.UpdateDevice(ctx, d); err != nil {
			return Change{}, err
		}
		return Change{Kind: Updated, Before: before, After: d.Ref()}, noteClient(ctx, q, &old, &d, client, pushed)
	})
	if err != nil {
		if pushed {
			s.undoPush(ctx, id, client.ID, err)
		}
		return fleet.Device{}, err
	}
	if pushed && client != clientOf(&d) { // another change came between
		s.wakeUp()
	}
	s.warnShared(ctx, ch)
	return d, nil
}

// DeleteDevice removes a device; fleet.NotFound if it does not exist. Its client
// at the issuer is deleted after that, again and again until it succeeds.
func (s *Service) DeleteDevice(ctx context.Context, id int64) error {
	defer s.wakeUp()
	_, err := s.write(ctx, func(q Queries) (Change, error) {
		d, err := q.Device(ctx, id)
		if err != nil {
			return Change{}, err
		}
		if err := q.PutRemoval(ctx, d.ClientID(), s.clock()); err != nil {
			return Change{}, err
		}
		return Change{Kind: Deleted, Before: d.Ref()}, q.DeleteDevice(ctx, id)
	})
	return err
}

// Warnings returns, in sentences for a person who sees those devices, what is
// doubtful about the device as it is now: that others share its entity id. It is
// never nil.
func (s *Service) Warnings(id int64, sees func(fleet.DeviceRef) bool) []string {
	const named = 5
	warnings := []string{}
	ref, ok := s.dir.ByID(id)
	if !ok || ref.EntityID == "" {
		return warnings
	}
	var keys []string
	for _, other := range s.dir.ByEntity(ref.EntityID) {
		if other.ID != id && sees(other) {
			keys = append(keys, other.Key)
		}
	}
	if len(keys) == 0 {
		return warnings
	}
	others := strings.Join(keys[:min(named, len(keys))], ", ")
	if more := len(keys) - named; more > 0 {
		others += fmt.Sprintf(" and %d more", more)
	}
	return append(warnings, fmt.Sprintf(
		"The entity id %q is shared with %s: log lines on the shared topic belong to all of them.", ref.EntityID, others))
}

// warnShared logs that a change made two devices share an entity id.
func (s *Service) warnShared(ctx context.Context, ch Change) {
	if ch.After.EntityID == "" || ch.After.EntityID == ch.Before.EntityID {
		return
	}
	if same := s.dir.ByEntity(ch.After.EntityID); len(same) > 1 {
		s.log.WarnContext(ctx, "devices share an entity id",
			"entity_id", ch.After.EntityID, "device", ch.After.Key, "devices", len(same))
	}
}

// write runs f in a transaction and, once it is committed, brings the directory
// up to date and tells the observers. f may return a zero Change: no device
// changed.
func (s *Service) write(ctx context.Context, f func(Queries) (Change, error)) (Change, error) {
	if err := s.lock(ctx); err != nil {
		return Change{}, err
	}
	defer s.unlock()
	if s.stale {
		if err := s.syncLocked(ctx); err != nil {
			return Change{}, err
		}
	}
	var ch Change
	committing := false
	err := s.store.Tx(ctx, func(q Queries) (err error) {
		if ch, err = f(q); err == nil {
			err = allowed(ctx, ch)
		}
		committing = err == nil
		return err
	})
	// From here on the change is a fact, whether or not the caller still waits.
	ctx = context.WithoutCancel(ctx)
	switch {
	case err == nil:
		s.announce(ctx, ch)
		return ch, nil
	case committing:
		// The commit failed, or it happened and the answer was lost.
		s.stale = true
		ctx, cancel := context.WithTimeout(ctx, syncTimeout)
		defer cancel()
		if err := s.syncLocked(ctx); err != nil {
			s.log.WarnContext(ctx, "directory not up to date until the store answers", "err", err)
		}
	}
	return Change{}, err
}

func (s *Service) lock(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) unlock() { <-s.writing }

func (s *Service) announce(ctx context.Context, ch Change) {
	switch ch.Kind {
	case Created:
		s.dir.introduce(ch.After)
		defer s.dir.put(ch.After)
	case Updated:
		s.dir.put(ch.After)
	case Deleted:
		s.dir.remove(ch.Before.ID)
	default:
		return
	}
	s.mu.Lock()
	observers := s.observers
	s.mu.Unlock()
	for _, f := range observers {
		s.tell(ctx, f, ch)
	}
}

func (s *Service) tell(ctx context.Context, f func(context.Context, Change), ch Change) {
	defer func() {
		if r := recover(); r != nil {
			s.log.ErrorContext(ctx, "observer of device changes panicked",
				"change", ch.Kind.String(), "panic", r, "stack", string(debug.Stack()))
		}
	}()
	f(ctx, ch)
}

// clock returns the time as it is stored: UTC, whole microseconds.
func (s *Service) clock() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// readConfig checks a config against its model's schema and reads its settings.
// That happens before the transaction: a schema that changes in between leaves
// the same devices behind as one that changes right after.
func readConfig(m fleet.Model, text string) (settings, error) {
	value, err := parseJSON(text)
	if err != nil {
		return settings{}, invalidConfig("%s", err.Error())
	}
	refused, err := checkConfig(m.ConfigSchema, value)
	switch {
	case err != nil:
		return settings{}, err
	case refused != nil:
		return settings{}, invalidConfig("%s", firstProblem(refused))
	}
	s, wrong := extract(value)
	if len(wrong) > 0 {
		return settings{}, invalidConfig("%s", wrong[0].Message)
	}
	return s, nil
}

func checkModelName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return fleet.E(fleet.Invalid, nil, "name must not be blank")
	case utf8.RuneCountInString(name) > maxText:
		return fleet.E(fleet.Invalid, nil, "name must have at most %d characters", maxText)
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return fleet.E(fleet.Invalid, nil, "name must be UTF-8 without NUL characters")
	}
	return nil
}

// checkSchema returns the schema to store: nil for none.
func checkSchema(text *string) (*string, error) {
	if text == nil || strings.TrimSpace(*text) == "" {
		return nil, nil
	}
	if _, err := compileSchema(*text); err != nil {
		return nil, err
	}
	return text, nil
}

// modelOfDevice returns the part of a model that a device carries.
func modelOfDevice(m fleet.Model) fleet.Model {
	return fleet.Model{ID: m.ID, Code: m.Code, Name: m.Name, FirmwareVersion: m.FirmwareVersion}
}
