package registry

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"signalbox/internal/fleet"
)

// Whatever the text, it is either refused as fleet.Invalid or valid JSON that a
// schema can be compiled from or checked against, without a panic.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"deviceName": "x", "enableOTA": true}`, `{"tags": ["lab", "nörd", "a b", "\u2028", 1, ""]}`, `1e308`, `{"$ref": "#"}`, `{"$ref": "http://x/y"}`, `{"type": "object", "required": ["a"]}`,
		`{"pattern": "(a+)+$"}`, `{"$id": "urn:x", "$defs": {"a": {"$anchor": "b"}}, "$ref": "#b"}`, `{"multipleOf": 1e-300}`, `{"$schema": "http://json-schema.org/draft-04/schema#", "id": 1}`, "\xff"} {
		f.Add(seed, `{"a": [1, "x", null]}`)
	}
	f.Fuzz(func(t *testing.T, schema, config string) {
		if CheckJSON(schema) == nil && !json.Valid([]byte(schema)) {
			t.Fatalf("%q is not JSON", schema)
		}
		value, err := parseJSON(config)
		if err != nil {
			return
		}
		settings, wrong := extract(value)
		n := 0
		for tag := range settings.tags.All() {
			if n++; tag == "" || utf8.RuneCountInString(tag) > maxTag || strings.ContainsFunc(tag, unicode.IsSpace) {
				t.Fatalf("tag %q", tag)
			}
		}
		if n > maxTags {
			t.Fatalf("%d tags", n)
		}
		refused, err := checkConfig(&schema, value)
		if err != nil && fleet.KindOf(err) != fleet.Invalid {
			t.Fatalf("check: %v", err)
		}
		if refused != nil {
			wrong = append(wrong, problems(refused)...)
			if firstProblem(refused) == "" {
				t.Fatal("a problem without a text")
			}
		}
		for _, p := range wrong {
			if p.Message == "" || p.Path != "" && p.Path[0] != '/' {
				t.Fatalf("problem %+v", p)
			}
		}
	})
}
