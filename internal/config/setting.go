package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// A setting is what one field of Config declares.
type setting struct {
	name    string // as an environment variable and as a key in a file
	flag    string // without the dashes
	initial string // the default, as text
	help    string
	group   string
	oneof   []string
	min     string // as text of the field's type; "" when there is no bound
	max     string
	zero    string // what 0 means where it is allowed below min
	field   int    // index in Config
	typ     reflect.Type
}

// settings returns what Config declares, in its order. It is worked out once
// and never changes.
var settings = sync.OnceValue(func() []setting {
	t := reflect.TypeFor[Config]()
	list := make([]setting, t.NumField())
	for i := range list {
		f := t.Field(i)
		name := f.Tag.Get("env")
		list[i] = setting{
			name:    name,
			flag:    cmp.Or(f.Tag.Get("name"), strings.ToLower(strings.ReplaceAll(name, "_", "-"))),
			initial: f.Tag.Get("default"),
			help:    f.Tag.Get("help"),
			group:   f.Tag.Get("group"),
			min:     f.Tag.Get("min"),
			max:     f.Tag.Get("max"),
			zero:    f.Tag.Get("zero"),
			field:   i,
			typ:     f.Type,
		}
		if words := f.Tag.Get("oneof"); words != "" {
			list[i].oneof = strings.Split(words, ",")
		}
	}
	return list
})

// secret reports whether the setting's text must never be shown as it was given.
func (s setting) secret() bool {
	return s.typ == reflect.TypeFor[Secret]() || s.typ == reflect.TypeFor[SecretURL]()
}

// kind says what text the setting takes, without its bounds, and gives an example.
func (s setting) kind() (noun, example string) {
	switch reflect.New(s.typ).Interface().(type) {
	case *ByteSize:
		return "a size", "512KiB or 4GiB"
	case *Duration:
		return "a time", "90 (seconds), 1m30s or 7d"
	case *Sync:
		return "always, or a time above 0", "10s"
	case *SecretURL:
		return "a URL", ""
	case *Auto:
		return "true, false or auto", ""
	case *Networks:
		return "a JSON list of networks", `["10.0.0.0/8"]`
	case *Origins:
		return "a JSON list of origins", `["https://example.org"]`
	case *HistoryLimits:
		return "a JSON object of limits", `{"relay":{"max_age":"30d","max_bytes":"2GiB"}}`
	case *Quotas:
		return "a JSON object from model codes to objects of " + strings.Join(quotaNames(), ", ") + ", each a whole number from 0", `{"relay":{"lines_per_second":5,"lines_per_day":0}}`
	case *Patterns:
		return "a JSON list of up to " + strconv.Itoa(maxPatterns) + " regular expressions", `["PIN=([0-9]+)"]`
	case *bool:
		return "true or false", ""
	case *int:
		return "a whole number", ""
	}
	if s.oneof != nil {
		return "one of " + strings.Join(s.oneof, ", "), ""
	}
	return "text", ""
}

// allowed says what text the setting takes, in words that fit after "want".
func (s setting) allowed() string {
	text, example := s.kind()
	switch {
	case s.min != "" && s.max != "":
		text += " from " + s.min + " to " + s.max
	case s.min != "":
		text += " of at least " + s.min
	}
	if s.zero != "" {
		text += " (0 = " + s.zero + ")"
	}
	if example != "" {
		text += ", such as " + example
	}
	return text
}

var errBounds = errors.New("out of bounds")

// set reads text into the setting's field of c and checks it against the
// setting's own bounds. The error may repeat the text.
func (s setting) set(c *Config, text string) error {
	value, err := s.parse(text)
	if err != nil {
		return err
	}
	if err := s.checkBounds(value); err != nil {
		return err
	}
	reflect.ValueOf(c).Elem().Field(s.field).Set(value)
	return nil
}

func (s setting) checkBounds(value reflect.Value) error {
	if !value.CanInt() || value.Int() == 0 && s.zero != "" {
		return nil
	}
	for bound, sign := range map[string]int{s.min: -1, s.max: 1} {
		if bound == "" {
			continue
		}
		limit, err := s.parse(bound)
		if err != nil {
			return fmt.Errorf("its own bound %q: %w", bound, err)
		}
		if cmp.Compare(value.Int(), limit.Int()) == sign {
			return errBounds
		}
	}
	return nil
}

// parse reads text as a value of the setting's type.
func (s setting) parse(text string) (reflect.Value, error) {
	target := reflect.New(s.typ)
	var err error
	switch p := target.Interface().(type) {
	case encoding.TextUnmarshaler:
		err = p.UnmarshalText([]byte(text))
	case *int:
		*p, err = strconv.Atoi(text)
	case *bool:
		*p, err = strconv.ParseBool(text)
	case *string:
		*p = text
		err = s.checkWord(text)
	default:
		err = fmt.Errorf("no way to read a %s", s.typ)
	}
	return target.Elem(), err
}

func (s setting) checkWord(text string) error {
	for _, word := range s.oneof {
		if word == text {
			return nil
		}
	}
	if s.oneof != nil {
		return errBounds
	}
	return nil
}

// show returns the setting's value in c as people may see it.
func (s setting) show(c *Config) string {
	return fmt.Sprint(reflect.ValueOf(c).Elem().Field(s.field).Interface())
}
