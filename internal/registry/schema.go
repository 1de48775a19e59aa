package registry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"signalbox/internal/fleet"
)

// schemaURL is the base that a schema's own references resolve against.
const schemaURL = "schema:///config"

// compileSchema turns the text of a JSON Schema into a validator. The dialect
// is the one that $schema names, 2020-12 without one. References stay inside
// the document: nothing is loaded from a file or a network. A text that is not
// a schema is fleet.Invalid.
//
// Patterns are RE2, which cannot be made to backtrack for hours; a schema that
// uses look-around is refused when it is saved.
func compileSchema(text string) (*jsonschema.Schema, error) {
	doc, err := parseJSON(text)
	if err != nil {
		return nil, invalidSchema(err.Error())
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	ignoreFormats(c, doc)
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, invalidSchema(schemaProblem(err))
	}
	schema, err := c.Compile(schemaURL)
	if err != nil {
		return nil, invalidSchema(schemaProblem(err))
	}
	return schema, nil
}

// checkConfig validates a parsed config against the text of a schema, nil
// accepting everything. The error is fleet.Invalid and names one problem.
func checkConfig(schemaText *string, config any) error {
	if schemaText == nil {
		return nil
	}
	schema, err := compileSchema(*schemaText)
	if err != nil {
		return err
	}
	if err := schema.Validate(config); err != nil {
		if e, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
			return invalidConfig("%s", firstProblem(e))
		}
		return invalidConfig("the config could not be validated")
	}
	return nil
}

func invalidSchema(problem string) error {
	return fleet.E(fleet.Invalid, nil, "Invalid JSON schema: %s", problem)
}

type noLoader struct{}

func (noLoader) Load(string) (any, error) { return nil, errors.New("references are not followed") }

// ignoreFormats makes "format" an annotation in every dialect, as it is in
// 2020-12 anyway: the older ones assert it. ("regex" cannot be overridden and
// stays asserted in those.)
func ignoreFormats(c *jsonschema.Compiler, v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			ignoreFormats(c, e)
		}
	case map[string]any:
		for key, e := range v {
			if name, ok := e.(string); ok && key == "format" {
				c.RegisterFormat(&jsonschema.Format{Name: name, Validate: func(any) error { return nil }})
			}
			ignoreFormats(c, e)
		}
	}
}

// schemaProblem says in one line why a schema cannot be used.
func schemaProblem(err error) string {
	if e, ok := errors.AsType[*jsonschema.LoadURLError](err); ok {
		return shorten(fmt.Sprintf("the reference %q leaves the document", e.URL))
	}
	if e, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		if e, ok := errors.AsType[*jsonschema.ValidationError](e.Err); ok {
			return firstProblem(e)
		}
	}
	return shorten(strings.ReplaceAll(err.Error(), schemaURL, ""))
}

// firstProblem describes what is wrong at the place nearest to the root of the
// document, and of several such places the first, so that the answer never varies.
func firstProblem(err *jsonschema.ValidationError) string {
	var leaves []*jsonschema.ValidationError
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			leaves = append(leaves, e)
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(err)
	place := func(a, b *jsonschema.ValidationError) int {
		return cmp.Or(cmp.Compare(len(a.InstanceLocation), len(b.InstanceLocation)), slices.Compare(a.InstanceLocation, b.InstanceLocation))
	}
	first := slices.MinFunc(leaves, place)
	printer := message.NewPrinter(language.English)
	var texts []string
	for _, e := range leaves {
		if place(e, first) == 0 {
			texts = append(texts, e.ErrorKind.LocalizedString(printer))
		}
	}
	slices.Sort(texts)
	text := strings.Join(slices.Compact(texts), "; ")
	if len(first.InstanceLocation) > 0 {
		text = "/" + strings.Join(first.InstanceLocation, "/") + ": " + text
	}
	return shorten(text)
}

// shorten bounds a message that may quote the document it is about.
func shorten(s string) string {
	const most = 500
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " ..."
}
