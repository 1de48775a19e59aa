package config

import (
	"bytes"
	"encoding/json"
	"regexp"
)

// Patterns is a list of regular expressions in the syntax of RE2. As text it is
// a JSON list of strings.
type Patterns []string

// Bounds of Patterns, for each costs something with every line.
const (
	maxPatterns = 100
	maxPattern  = 1000 // bytes
)

// UnmarshalText reads a JSON list of regular expressions that are not empty.
func (p *Patterns) UnmarshalText(text []byte) error {
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return detailf("it is not a JSON list of strings")
	}
	if len(list) > maxPatterns {
		return detailf("there are %d", len(list))
	}
	for i, pattern := range list {
		if pattern == "" || len(pattern) > maxPattern {
			return detailf("number %d has %d characters instead of 1 to %d", i+1, len(pattern), maxPattern)
		}
		if _, err := regexp.Compile(pattern); err != nil {
			return detailf("number %d: %v", i+1, err)
		}
	}
	*p = list
	return nil
}

// Compile returns the regular expressions.
func (p Patterns) Compile() []*regexp.Regexp {
	var list []*regexp.Regexp
	for _, pattern := range p {
		list = append(list, regexp.MustCompile(pattern)) // UnmarshalText has seen that it does
	}
	return list
}

// String returns the list as JSON, its characters as they are.
func (p Patterns) String() string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode([]string(p)); err != nil || p == nil {
		return "[]"
	}
	return string(bytes.TrimRight(b.Bytes(), "\n"))
}
