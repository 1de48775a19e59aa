package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"signalbox/internal/fleet"
)

// Bounds of a config and of a config schema.
const (
	MaxJSON       = 256 << 10 // bytes of the text
	MaxJSONDepth  = 100       // arrays and objects inside each other
	maxNumberText = 400       // characters of one number
	maxExponent   = 308       // decimal exponent of one number, either way
	maxText       = 255       // characters of a name or an entity id
	maxTags       = 32        // of a device
	maxTag        = 64        // characters of one tag
)

// CheckJSON reports whether text is a JSON document within the bounds. The
// error's text says what is wrong and where, and is safe to show.
func CheckJSON(text string) error {
	_, err := parseJSON(text)
	return err
}

// parseJSON decodes RFC 8259 JSON (no NaN, no Infinity, nothing after the
// value) with numbers as json.Number.
func parseJSON(text string) (any, error) {
	if len(text) > MaxJSON {
		return nil, fmt.Errorf("the text has %d bytes, at most %d are allowed", len(text), MaxJSON)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("the text is not UTF-8")
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, describeJSONError(text, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("extra data after the value at %s", position(text, dec.InputOffset()))
	}
	if err := checkValue(v, 1); err != nil {
		return nil, err
	}
	return v, nil
}

func describeJSONError(text string, err error) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%s at %s", e.Error(), position(text, e.Offset))
	}
	return errors.New("the text ends before the value does") // io.EOF, io.ErrUnexpectedEOF
}

// position names the place of the byte before offset, the last one read.
func position(text string, offset int64) string {
	before := text[:min(max(int(offset)-1, 0), len(text))]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d column %d", line, column)
}

// checkValue bounds what a decoder accepts and a reader may choke on. A schema
// compares numbers exactly, so 1e999999999 would be a gigabyte of digits.
func checkValue(v any, depth int) error {
	switch v := v.(type) {
	case json.Number:
		return checkNumber(string(v))
	case []any:
		if depth > MaxJSONDepth {
			return fmt.Errorf("nested deeper than %d levels", MaxJSONDepth)
		}
		for _, e := range v {
			if err := checkValue(e, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if depth > MaxJSONDepth {
			return fmt.Errorf("nested deeper than %d levels", MaxJSONDepth)
		}
		for _, e := range v {
			if err := checkValue(e, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkNumber(s string) error {
	if len(s) > maxNumberText {
		return fmt.Errorf("a number has more than %d characters", maxNumberText)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) {
		return fmt.Errorf("the number %s is out of range", s)
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		if exp, err := strconv.Atoi(s[i+1:]); err != nil || exp > maxExponent || exp < -maxExponent {
			return fmt.Errorf("the number %s is out of range", s)
		}
	}
	return nil
}

// settings is what the registry itself reads in a device's config.
type settings struct {
	name      *string
	entityID  *string
	enableOTA *bool
	tags      fleet.Tags
}

// extract reads the settings of a parsed config. A config that is not an object
// has none. The problems are of settings that have the wrong type.
func extract(config any) (s settings, wrong []Problem) {
	object, ok := config.(map[string]any)
	if !ok {
		return s, nil
	}
	text := func(name string) *string {
		value, problem := textSetting(object[name])
		if problem != "" {
			wrong = append(wrong, Problem{"/" + name, name + " " + problem})
		}
		return value
	}
	s.name = text("deviceName")
	s.entityID = text("deviceEntityId")
	switch v := object["enableOTA"].(type) {
	case nil:
	case bool:
		s.enableOTA = &v
	default:
		wrong = append(wrong, Problem{"/enableOTA", "enableOTA must be true or false"})
	}
	s.tags, wrong = tagSetting(object["tags"], wrong)
	return s, wrong
}

// tagSetting returns the tags of a config, and wrong with what is wrong with them.
func tagSetting(value any, wrong []Problem) (fleet.Tags, []Problem) {
	if value == nil {
		return "", wrong
	}
	list, ok := value.([]any)
	if !ok {
		return "", append(wrong, Problem{"/tags", "tags must be an array of strings"})
	}
	if len(list) > maxTags {
		return "", append(wrong, Problem{"/tags", fmt.Sprintf("tags must be at most %d", maxTags)})
	}
	var words []string
	for i, item := range list {
		word, ok := item.(string)
		path := fmt.Sprintf("/tags/%d", i)
		switch n := utf8.RuneCountInString(word); {
		case !ok:
			wrong = append(wrong, Problem{path, "tags must be strings"})
		case n < 1 || n > maxTag:
			wrong = append(wrong, Problem{path, fmt.Sprintf("tags must have 1 to %d characters", maxTag)})
		case strings.ContainsFunc(word, func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) }):
			wrong = append(wrong, Problem{path, "tags must be of printable characters without whitespace"})
		default:
			words = append(words, word)
		}
	}
	return fleet.NewTags(words...), wrong
}

// textSetting returns a setting that is a text, nil if it is blank or not there,
// or what is wrong with it.
func textSetting(value any) (text *string, problem string) {
	switch v := value.(type) {
	case nil:
		return nil, ""
	case string:
		switch {
		case strings.TrimSpace(v) == "":
			return nil, ""
		case utf8.RuneCountInString(v) > maxText:
			return nil, fmt.Sprintf("must have at most %d characters", maxText)
		case strings.ContainsRune(v, 0):
			return nil, "must not contain a NUL character"
		}
		return &v, ""
	default:
		return nil, "must be a string"
	}
}

func invalidConfig(format string, args ...any) error {
	return fleet.E(fleet.Invalid, nil, "Config validation failed: "+format, args...)
}
