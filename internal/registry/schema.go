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
// accepting everything. Of what the schema refuses it returns every fault; the
// error is of a schema that cannot be used, and fleet.Invalid.
func checkConfig(schemaText *string, config any) (*jsonschema.ValidationError, error) {
	if schemaText == nil {
		return nil, nil
	}
	schema, err := compileSchema(*schemaText)
	if err != nil {
		return nil, err
	}
	err = schema.Validate(config)
	if err == nil {
		return nil, nil
	}
	if e, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		return e, nil
	}
	return nil, invalidConfig("the config could not be validated")
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
	all := faults(err)
	first := all[0].InstanceLocation
	printer := message.NewPrinter(language.English)
	var texts []string
	for _, e := range all {
		if slices.Equal(e.InstanceLocation, first) {
			texts = append(texts, e.ErrorKind.LocalizedString(printer))
		}
	}
	slices.Sort(texts)
	text := strings.Join(slices.Compact(texts), "; ")
	if len(first) > 0 {
		text = "/" + strings.Join(first, "/") + ": " + text
	}
	return shorten(text)
}

// faults returns the single faults that an error is made of, at least one, those
// nearest to the root of the document first.
func faults(err *jsonschema.ValidationError) []*jsonschema.ValidationError {
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
	slices.SortStableFunc(leaves, func(a, b *jsonschema.ValidationError) int {
		return cmp.Or(cmp.Compare(len(a.InstanceLocation), len(b.InstanceLocation)), slices.Compare(a.InstanceLocation, b.InstanceLocation))
	})
	return leaves
}

// Problem is one thing that is wrong with a config.
type Problem struct {
	Path    string // of the value, a JSON pointer (RFC 6901); "" is the whole config
	Message string // safe to show
}

// MaxProblems bounds how many problems of one config are told.
const MaxProblems = 100

// problems returns what is wrong, each thing once and always in the same order.
func problems(err *jsonschema.ValidationError) []Problem {
	printer := message.NewPrinter(language.English)
	var all []Problem
	for _, e := range faults(err) {
		all = append(all, Problem{pointer(e.InstanceLocation), shorten(e.ErrorKind.LocalizedString(printer))})
	}
	// Nearest to the root first; by text as well, since the library walks maps.
	slices.SortFunc(all, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(strings.Count(a.Path, "/"), strings.Count(b.Path, "/")), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	all = slices.Compact(all)
	return all[:min(len(all), MaxProblems)]
}

// pointer returns the JSON pointer of a place in a document.
func pointer(place []string) string {
	var b strings.Builder
	for _, name := range place {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return b.String()
}

// shorten bounds a message that may quote the document it is about.
func shorten(s string) string {
	const most = 500
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " ..."
}
