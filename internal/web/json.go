package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// write sends v as JSON.
func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, v any) {
	s.send(w, status, encode(r, v))
}

// writeLarge sends v as JSON, in gzip if the client takes it.
func (s *Server) writeLarge(w http.ResponseWriter, r *http.Request, v any) {
	s.sendLarge(w, r, encode(r, v))
}

func encode(r *http.Request, v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // nosniff and the content type see to that
	if err := enc.Encode(v); err != nil {
		// Only a programming mistake gets here: v is of our own types.
		panic(fmt.Errorf("encode answer of %s: %w", r.Pattern, err))
	}
	return b.Bytes()
}

func (s *Server) send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // an error means that the client has gone
}

// smallAnswer is up to how many bytes compressing gains nothing to speak of.
const smallAnswer = 512

func (s *Server) sendLarge(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Add("Vary", "Accept-Encoding")
	if len(body) > smallAnswer && takesGzip(r) {
		// Fast, since it is made anew each time.
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		_, _ = z.Write(body) // a buffer takes everything
		_ = z.Close()
		body = b.Bytes()
		w.Header().Set("Content-Encoding", "gzip")
	}
	s.send(w, http.StatusOK, body)
}

// takesGzip reports whether the client names gzip (RFC 9110, section 12.5.3).
func takesGzip(r *http.Request) bool {
	for item := range strings.SplitSeq(strings.Join(r.Header["Accept-Encoding"], ","), ",") {
		name, weight, _ := strings.Cut(item, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
			return err != nil || q > 0
		}
	}
	return false
}

// pathID returns the number in the path. Anything else is no route, as if the
// pattern said so.
func pathID(r *http.Request) (int64, error) {
	text := r.PathValue("id")
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || text[0] < '0' || text[0] > '9' {
		return 0, errNoRoute
	}
	return id, nil
}

// timestamp returns a time as it is on the wire.
func timestamp(t time.Time) string { return t.UTC().Format(logs.TimeLayout) }

func timestampOrNull(t *time.Time) *string {
	if t == nil {
		return nil
	}
	s := timestamp(*t)
	return &s
}

// violation is one fault of a request body, in the shape of pydantic v2.
type violation struct {
	Type  string `json:"type"`
	Loc   []any  `json:"loc"`
	Msg   string `json:"msg"`
	Input any    `json:"input"`
	URL   string `json:"url"`
}

// violations is the error of a body that does not have the shape it must have.
type violations []violation

func (v violations) Error() string { return fmt.Sprintf("%d violations of the request schema", len(v)) }

const violationURL = "https://errors.pydantic.dev/2.12/v/"

// form reads the fields of a JSON object and gathers what is wrong with them. A
// field that is wrong reads as zero; err says so in the end.
type form struct {
	fields map[string]any
	read   map[string]bool
	faults violations
}

// form returns the fields of the request's body. A body that is missing, is not
// JSON or is not said to be (which keeps other sites' HTML forms out) is an
// empty object. One over the bound is fleet.TooLarge.
func (s *Server) form(w http.ResponseWriter, r *http.Request) (*form, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.maxBody))
	if err != nil {
		if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, fleet.E(fleet.TooLarge, err, "The request body has more than %d bytes", e.Limit)
		}
		return nil, fleet.E(fleet.Invalid, err, "The request body could not be read")
	}
	if !saysJSON(r.Header.Get("Content-Type")) {
		body = nil
	}
	return newForm(body), nil
}

func newForm(body []byte) *form {
	f := &form{read: make(map[string]bool)}
	switch v := parse(body).(type) {
	case nil:
		f.fields = map[string]any{}
	case map[string]any:
		f.fields = v
	default:
		f.fields = map[string]any{}
		f.fault("dict_type", nil, "Input should be a valid dictionary", v)
	}
	return f
}

func saysJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" ||
		strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json"))
}

// parse decodes exactly one JSON value, numbers as json.Number; nil is null and
// everything that is not JSON.
func parse(body []byte) any {
	if !utf8.Valid(body) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil
	}
	return v
}

// err returns what is wrong with the form, or nil.
func (f *form) err() error {
	if len(f.faults) > 0 {
		return f.faults
	}
	return nil
}

// forbidExtra makes every field that was not asked for a fault.
func (f *form) forbidExtra() {
	for _, name := range slices.Sorted(maps.Keys(f.fields)) {
		if !f.read[name] {
			f.fault("extra_forbidden", []any{name}, "Extra inputs are not permitted", f.fields[name])
		}
	}
}

func (f *form) fault(kind string, loc []any, msg string, input any) {
	if loc == nil {
		loc = []any{}
	}
	f.faults = append(f.faults, violation{kind, loc, msg, input, violationURL + kind})
}

// value returns a field that must be there.
func (f *form) value(name string) (any, bool) {
	f.read[name] = true
	v, ok := f.fields[name]
	if !ok {
		f.fault("missing", []any{name}, "Field required", f.fields)
	}
	return v, ok
}

// rule bounds a text.
type rule struct {
	least, most int // characters; most 0 is unbounded
	pattern     *regexp.Regexp
	check       func(string) error // its text is shown
}

// text returns a field that must be there and be a string.
func (f *form) text(name string, r rule) string {
	v, ok := f.value(name)
	if !ok {
		return ""
	}
	return f.textOf(name, v, r)
}

// textOrNull returns a field that may be missing or null, and otherwise must be
// a string.
func (f *form) textOrNull(name string, r rule) *string {
	f.read[name] = true
	v := f.fields[name]
	if v == nil {
		return nil
	}
	s := f.textOf(name, v, r)
	return &s
}

func (f *form) textOf(name string, v any, r rule) string {
	loc := []any{name}
	s, ok := v.(string)
	if !ok {
		f.fault("string_type", loc, "Input should be a valid string", v)
		return ""
	}
	switch n := utf8.RuneCountInString(s); {
	case n < r.least:
		f.fault("string_too_short", loc, "String should have at least "+characters(r.least), v)
	case r.most > 0 && n > r.most:
		f.fault("string_too_long", loc, "String should have at most "+characters(r.most), v)
	case r.pattern != nil && !r.pattern.MatchString(s):
		f.fault("string_pattern_mismatch", loc, fmt.Sprintf("String should match pattern '%s'", r.pattern), v)
	case r.check != nil:
		if err := r.check(s); err != nil {
			f.fault("value_error", loc, "Value error, "+err.Error(), v)
		}
	}
	return s
}

func characters(n int) string {
	if n == 1 {
		return "1 character"
	}
	return fmt.Sprintf("%d characters", n)
}

// integer returns a field that must be there and be a whole number, or the text
// of one.
func (f *form) integer(name string) int64 {
	v, ok := f.value(name)
	if !ok {
		return 0
	}
	loc := []any{name}
	const tooBig = "Unable to parse input string as an integer, exceeded maximum size"
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		if err == nil {
			return n
		}
		x, err := v.Float64()
		switch {
		case err != nil || math.Abs(x) >= 1<<63:
			f.fault("int_parsing_size", loc, tooBig, v)
		case x != math.Trunc(x):
			f.fault("int_from_float", loc, "Input should be a valid integer, got a number with a fractional part", v)
		}
		return int64(x)
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange):
			f.fault("int_parsing_size", loc, tooBig, v)
		case err != nil:
			f.fault("int_parsing", loc, "Input should be a valid integer, unable to parse string as an integer", v)
		}
		return n
	}
	f.fault("int_type", loc, "Input should be a valid integer", v)
	return 0
}

// has reports whether the field is there at all.
func (f *form) has(name string) bool {
	_, ok := f.fields[name]
	return ok
}

// integers returns a field that must be there and be a list of at most that
// many whole numbers.
func (f *form) integers(name string, most int) []int64 {
	v, ok := f.value(name)
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	switch {
	case !ok:
		f.fault("list_type", []any{name}, "Input should be a valid list", v)
		return nil
	case len(list) > most:
		f.fault("too_long", []any{name}, fmt.Sprintf("List should have at most %d items", most), nil)
		return nil
	}
	numbers := make([]int64, len(list))
	for i, item := range list {
		n, ok := item.(json.Number)
		if !ok {
			f.fault("int_type", []any{name, i}, "Input should be a valid integer", item)
			continue
		}
		var err error
		if numbers[i], err = n.Int64(); err != nil {
			f.fault("int_parsing", []any{name, i}, "Input should be a valid integer", item)
		}
	}
	return numbers
}

// boolean returns a field that must be there and be true or false, or one of
// the usual words and numbers for them.
func (f *form) boolean(name string) bool {
	v, ok := f.value(name)
	if !ok {
		return false
	}
	switch v := v.(type) {
	case bool:
		return v
	case json.Number:
		if x, err := v.Float64(); err == nil && (x == 0 || x == 1) {
			return x == 1
		}
	case string:
		switch strings.ToLower(v) {
		case "1", "on", "t", "true", "y", "yes":
			return true
		case "0", "off", "f", "false", "n", "no":
			return false
		}
	default:
		f.fault("bool_type", []any{name}, "Input should be a valid boolean", v)
		return false
	}
	f.fault("bool_parsing", []any{name}, "Input should be a valid boolean, unable to interpret input", v)
	return false
}
