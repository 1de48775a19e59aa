package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
)

// detail is an error about one place in a long text, fit to be shown behind
// what the setting takes. Its text repeats no more of the setting than that.
type detail struct{ text string }

// Error implements error.
func (d *detail) Error() string { return d.text }

func detailf(format string, args ...any) error { return &detail{fmt.Sprintf(format, args...)} }

// Quotas are limits of what the devices of some models may log, by the code of
// the model. As text they are a JSON object of objects.
type Quotas map[string]Quota

// Quota is what is limited otherwise for one model: nil is as for all, 0 is
// unlimited (of Burst: ten seconds of the rate).
type Quota struct {
	LinesPerSecond *int64 `json:"lines_per_second,omitempty"`
	Burst          *int64 `json:"burst,omitempty"`
	BytesPerSecond *int64 `json:"bytes_per_second,omitempty"`
	LinesPerDay    *int64 `json:"lines_per_day,omitempty"`
	BytesPerDay    *int64 `json:"bytes_per_day,omitempty"`
}

// quotaField is one name in a Quota. The bounds are those of the settings for all.
type quotaField struct {
	name  string
	most  int64
	field func(*Quota) **int64
}

func quotaFields() []quotaField {
	return []quotaField{
		{"lines_per_second", 1_000_000, func(q *Quota) **int64 { return &q.LinesPerSecond }},
		{"burst", 100_000_000, func(q *Quota) **int64 { return &q.Burst }},
		{"bytes_per_second", 1 << 40, func(q *Quota) **int64 { return &q.BytesPerSecond }},
		{"lines_per_day", 2_000_000_000, func(q *Quota) **int64 { return &q.LinesPerDay }},
		{"bytes_per_day", 1 << 50, func(q *Quota) **int64 { return &q.BytesPerDay }},
	}
}

func quotaNames() (names []string) {
	for _, f := range quotaFields() {
		names = append(names, f.name)
	}
	return names
}

var modelCode = regexp.MustCompile(`^[a-z0-9_]{1,50}$`)

// UnmarshalText reads the JSON object. A name that is not known, or that stands
// there twice, is an error: a limit that somebody wrote must hold.
func (q *Quotas) UnmarshalText(text []byte) error {
	if !json.Valid(text) {
		return detailf("it is not JSON")
	}
	all := Quotas{}
	isObject, err := members(text, func(code string, value json.RawMessage) error {
		if !modelCode.MatchString(code) {
			return detailf("%q is not a model's code", code)
		}
		if _, twice := all[code]; twice {
			return detailf("%q stands there twice", code)
		}
		var quota Quota
		isObject, err := members(value, func(name string, value json.RawMessage) error { return quota.set(code, name, value) })
		if err == nil && !isObject {
			err = detailf("%s: not an object", code)
		}
		all[code] = quota
		return err
	})
	if err == nil && !isObject {
		err = detailf("it is not an object")
	}
	if err != nil {
		return err
	}
	*q = all
	return nil
}

// set reads one limit of a model.
func (q *Quota) set(code, name string, value json.RawMessage) error {
	for _, f := range quotaFields() {
		if f.name != name {
			continue
		}
		field := f.field(q)
		if *field != nil {
			return detailf("%s: %q stands there twice", code, name)
		}
		n, err := strconv.ParseUint(string(value), 10, 63)
		if err != nil || int64(n) > f.most {
			return detailf("%s: %s is not a whole number from 0 to %d", code, name, f.most)
		}
		limit := int64(n)
		*field = &limit
		return nil
	}
	return detailf("%s: %q is not known", code, name)
}

// members calls f for each member of the JSON text, in order, if that is an
// object. The text is valid.
func members(text []byte, f func(name string, value json.RawMessage) error) (isObject bool, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return false, err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return true, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return true, err
		}
		if err := f(name.(string), value); err != nil { // a member begins with its name
			return true, err
		}
	}
	return true, nil
}

// String returns the quotas as JSON, the models in alphabetical order.
func (q Quotas) String() string {
	b, err := json.Marshal(map[string]Quota(q))
	if err != nil || q == nil {
		return "{}"
	}
	return string(b)
}
