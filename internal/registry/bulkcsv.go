package registry

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"signalbox/internal/fleet"
)

// Bounds of a file of devices.
const (
	MaxImportBytes = 16 << 20
	MaxImportLines = 100_000
)

// The columns of a file of devices. An import takes those before the empty one and
// passes over those behind it, which an export has as well.
var importColumns = []string{
	"model", "key", "name", "entity_id", "tags", "active", "config", "",
	"client_id", "rotation_state", "secret_created_at", "last_rotation_completed_at", "created_at",
}

// ImportLine is a line of a file of devices.
type ImportLine struct {
	Number   int // of the line in the file, or of its first one if it has several; from 1
	Model    string
	Key      string
	Name     string
	EntityID string
	Tags     string // separated by spaces
	Active   string
	Config   string
	Problem  string // why it cannot be read; "" if it can
}

// ReadDevices reads a file of devices: UTF-8 with or without a byte order mark, values
// separated by commas, semicolons or tabs, the names of the columns in the first
// line. What is wrong with one line is said there. Errors: fleet.TooLarge;
// fleet.Invalid for what is no such file at all.
func ReadDevices(file []byte) ([]ImportLine, error) {
	if len(file) > MaxImportBytes {
		return nil, fleet.E(fleet.TooLarge, nil, "The file has %d bytes, at most %d are allowed", len(file), MaxImportBytes)
	}
	if bytes.HasPrefix(file, []byte("\xff\xfe")) || bytes.HasPrefix(file, []byte("\xfe\xff")) {
		return nil, fleet.E(fleet.Invalid, nil, "The file is UTF-16: save it as CSV UTF-8")
	}
	file = bytes.TrimPrefix(file, []byte("\xef\xbb\xbf"))
	comma, file, passed := separator(file)
	r := csv.NewReader(bytes.NewReader(file))
	r.Comma, r.FieldsPerRecord, r.ReuseRecord = comma, -1, true
	names, err := r.Read()
	if err != nil {
		return nil, fleet.E(fleet.Invalid, err, "The file has no first line with the names of the columns, at least: model")
	}
	columns, err := columnsOf(names)
	if err != nil {
		return nil, err
	}
	var lines []ImportLine
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if len(lines) == MaxImportLines {
			return nil, fleet.E(fleet.TooLarge, nil, "The file has more than %d devices: split it", MaxImportLines)
		}
		if e, ok := errors.AsType[*csv.ParseError](err); ok {
			lines = append(lines, ImportLine{Number: e.StartLine + passed, Problem: problemOf(e, passed)})
			continue
		}
		if !slices.ContainsFunc(record, func(s string) bool { return strings.TrimSpace(s) != "" }) {
			continue // as spreadsheets leave them behind
		}
		number, _ := r.FieldPos(0)
		l := lineOf(columns, record)
		l.Number = number + passed
		lines = append(lines, l)
	}
}

// separator returns what separates the values of a file, which is what there is most
// of in its first line, and what of the file is behind a line that only says so
// ("sep=;", as Excel has it), with the number of lines before that.
func separator(file []byte) (comma rune, rest []byte, passed int) {
	first, rest, _ := bytes.Cut(file, []byte("\n"))
	if said, ok := bytes.CutPrefix(bytes.TrimSuffix(first, []byte("\r")), []byte("sep=")); ok && len(said) == 1 && bytes.ContainsAny(said, ",;\t") {
		return rune(said[0]), rest, 1
	}
	comma, most := ',', 0
	for _, c := range []rune{',', ';', '\t'} {
		if n := bytes.Count(first, []byte(string(c))); n > most {
			comma, most = c, n
		}
	}
	return comma, file, 0
}

// columnsOf returns which column is which; "" are those that mean nothing here.
func columnsOf(names []string) ([]string, error) {
	columns := make([]string, len(names))
	for i, name := range names {
		c := strings.ToLower(strings.TrimSpace(name))
		at := slices.Index(importColumns, c)
		switch {
		case c == "":
		case at < 0:
			return nil, fleet.E(fleet.Invalid, nil, "The column %.40q is not known; known are %s", name, strings.Join(importColumns[:slices.Index(importColumns, "")], ", "))
		case at > slices.Index(importColumns, ""):
		case slices.Contains(columns, c):
			return nil, fleet.E(fleet.Invalid, nil, "The column %q is there twice", c)
		default:
			columns[i] = c
		}
	}
	if !slices.Contains(columns, "model") {
		return nil, fleet.E(fleet.Invalid, nil, "The first line must name the columns, and there is none named model")
	}
	return columns, nil
}

// lineOf reads one line.
func lineOf(columns, record []string) (l ImportLine) {
	fields := map[string]*string{
		"model": &l.Model, "key": &l.Key, "name": &l.Name, "entity_id": &l.EntityID, "tags": &l.Tags, "active": &l.Active, "config": &l.Config,
	}
	for i, value := range record {
		switch {
		case !utf8.ValidString(value):
			l.Problem = "The line is not UTF-8: save the file as CSV UTF-8"
		case i >= len(columns):
			if strings.TrimSpace(value) != "" {
				l.Problem = fmt.Sprintf("The line has %d values, and there are %d columns", len(record), len(columns))
			}
		case columns[i] != "":
			*fields[columns[i]] = strings.Clone(unguard(value))
		}
	}
	for _, p := range []*string{&l.Model, &l.Key, &l.Active} {
		*p = strings.TrimSpace(*p)
	}
	return l
}

// problemOf says what keeps a line from being read.
func problemOf(e *csv.ParseError, passed int) string {
	switch {
	case errors.Is(e.Err, csv.ErrQuote):
		return fmt.Sprintf("A value in quotes goes wrong in line %d: one within it is written twice, and behind it the value ends", e.Line+passed)
	case errors.Is(e.Err, csv.ErrBareQuote):
		return fmt.Sprintf("There is a quote within a value in line %d: such a value has to stand in quotes, and the one within it twice", e.Line+passed)
	}
	return "The line cannot be read"
}

// isActive reads the column active; without a value a device is.
func isActive(text string) (active, ok bool) {
	switch strings.ToLower(text) {
	case "", "true", "1", "yes", "y", "on":
		return true, true
	case "false", "0", "no", "n", "off":
		return false, true
	}
	return false, false
}

// config returns the config of a line: the text of its column, with what the
// columns name, entity_id and tags say added to it. The problems keep it from being one.
func (l ImportLine) config() (text string, problems []string) {
	text = l.Config
	if strings.TrimSpace(text) == "" {
		text = "{}"
	}
	value, err := parseJSON(text)
	if err != nil {
		return "", []string{"config: " + err.Error()}
	}
	object, isObject := value.(map[string]any)
	var add []string
	put := func(column, name, said string, value any, same func(any) bool) {
		there, has := object[name]
		switch {
		case said == "":
		case !isObject:
			problems = append(problems, fmt.Sprintf("config: must be an object where the column %s has a value", column))
		case !has:
			b, err := json.Marshal(value)
			if err != nil {
				panic(err) // texts
			}
			add = append(add, fmt.Sprintf("%q:%s", name, b))
		case !same(there):
			problems = append(problems, fmt.Sprintf("%s: the config says otherwise in %s", column, name))
		}
	}
	text1 := func(column, name, said string) {
		put(column, name, strings.TrimSpace(said), said, func(there any) bool { return there == said })
	}
	text1("name", "deviceName", l.Name)
	text1("entity_id", "deviceEntityId", l.EntityID)
	tags := strings.Fields(l.Tags)
	put("tags", "tags", strings.Join(tags, " "), tags, func(there any) bool {
		said, _ := tagSetting(there, nil)
		return said == fleet.NewTags(tags...)
	})
	if len(add) == 0 || len(problems) > 0 {
		return text, problems
	}
	// Before what is there already, which stays as it was written.
	at := strings.IndexByte(text, '{') + 1
	between := ","
	if len(object) == 0 {
		between = ""
	}
	return text[:at] + strings.Join(add, ",") + between + text[at:], nil
}

// ExportedDevice is a line of a file of devices that is written.
type ExportedDevice struct {
	fleet.Device
	ShowConfig bool // Config may be seen
}

// WriteDevices writes a file of devices, as ReadDevices reads it. What a spreadsheet
// would take for a formula has a quotation mark in front. flush is called when some
// hundred are written.
func WriteDevices(w io.Writer, devices func(yield func(ExportedDevice) bool), withConfig bool, flush func() error) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true // RFC 4180, section 2
	columns := []string{
		"key", "model", "name", "entity_id", "client_id", "tags", "active", "rotation_state", "secret_created_at",
		"last_rotation_completed_at", "created_at",
	}
	if withConfig {
		columns = append(columns, "config")
	}
	err := out.Write(columns)
	n := 0
	for d := range devices {
		row := []string{
			d.Key, d.Model.Code, orBlank(d.Name), orBlank(d.EntityID), d.ClientID(), strings.ReplaceAll(string(d.Tags), "\n", " "),
			strconv.FormatBool(d.Active), string(d.Rotation), stamp(d.SecretCreatedAt), stamp(d.LastRotationCompletedAt), stamp(&d.CreatedAt),
		}
		if withConfig {
			config := ""
			if d.ShowConfig {
				config = d.Config
			}
			row = append(row, config)
		}
		for i := range row {
			row[i] = guard(strings.ReplaceAll(row[i], "\r", "")) // which would not come back in any case
		}
		if err = errors.Join(err, out.Write(row)); err != nil {
			return err
		}
		if n++; n%500 == 0 {
			out.Flush()
			if err := errors.Join(out.Error(), flush()); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return errors.Join(err, out.Error())
}

// formula reports whether a spreadsheet may take a value for a formula, behind
// the quotation marks that it begins with.
func formula(s string) bool {
	s = strings.TrimLeft(s, "'")
	return s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0]))
}

// guard returns a value as it is written, with a quotation mark if it could be
// taken for a formula (CWE-1236), and unguard what was written so.
func guard(s string) string {
	if formula(s) {
		return "'" + s
	}
	return s
}

func unguard(s string) string {
	if strings.HasPrefix(s, "'") && formula(s) {
		return s[1:]
	}
	return s
}
