// Package internal_test holds the rule that no single package can keep: which
// package may import which.
package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rings is the place of every package below internal/. Imports point to lower
// rings only, so that packages of one ring never import each other.
var rings = map[string]int{
	"fleet": 1, "sse": 1, "secret": 1,
	"logs": 2, "stream": 2, "rotation": 2, "registry": 2, "access": 2, "overview": 2, "presence": 2,
	"web": 3, "ui": 3, "nats": 3, "mqtt": 3, "sqlstore": 3, "elastic": 3, "oidc": 3, "keycloak": 3, "local": 3, "gateway": 3,
	"sim": 3, "tail": 3,
	"app": 4,
}

// outside is the packages that have no ring, and the packages of this module
// that each may import. Only app, the commands and tests import them.
var outside = map[string][]string{
	"config":        {},
	"porttest":      {},
	"mosquittotest": {"porttest"},
	"postgrestest":  {"porttest"},
	"rabbitmqtest":  {"porttest"},
	"elastictest":   {},
	"oidctest":      {},
	"keycloaktest":  {},
	"conformance":   {"fleet", "sse", "logs", "stream", "rotation", "registry", "access", "presence"},
}

// stdOnly is the packages that import the standard library alone.
var stdOnly = []string{"fleet", "sse", "secret"}

const (
	module   = "signalbox"
	internal = module + "/internal/"
)

// listed is the part of `go list -json` that is needed here.
type listed struct {
	ImportPath  string
	Imports     []string
	TestImports []string
}

func TestImportsPointInwards(t *testing.T) {
	packages := list(t)
	for _, p := range packages {
		for _, mistake := range mistakes(p) {
			t.Error(mistake)
		}
	}
	if len(packages) < 4 {
		t.Errorf("only %d packages were looked at", len(packages))
	}
}

// list returns every package of the module.
func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports", module+"/...").Output()
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("%v\n%s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// room returns the directory below internal/ that a package belongs to:
// "signalbox/internal/sqlstore/db" is of sqlstore.
func room(path string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(path, internal)
	name, _, _ = strings.Cut(rest, "/")
	return name, ok
}

// mistakes returns what is wrong with the imports of p.
func mistakes(p listed) []string {
	var found []string
	wrong := func(path, why string) { found = append(found, p.ImportPath+" imports "+path+": "+why) }

	from, ok := room(p.ImportPath)
	ring, outsideFrom := rings[from], outside[from]
	_, special := outside[from]
	switch {
	case !ok:
		// Commands, bench and e2e may import everything of ours.
	case ring == 0 && !special:
		return []string{p.ImportPath + " has no ring: give it one in internal/imports_test.go"}
	}

	for _, path := range p.Imports {
		if slices.Contains(stdOnly, from) && strings.Contains(strings.Split(path, "/")[0], ".") {
			wrong(path, "the standard library only")
		}
		to, ours := room(path)
		if !ours || !ok || to == from {
			if ok && strings.HasPrefix(path, module+"/") && !ours {
				wrong(path, "commands and tests are not for import")
			}
			continue
		}
		_, toOutside := outside[to]
		switch {
		case special && !slices.Contains(outsideFrom, to):
			wrong(path, from+" may not")
		case !special && toOutside && from != "app":
			wrong(path, "only app, commands and tests may import "+to)
		case !special && !toOutside && rings[to] >= ring:
			wrong(path, "imports point to lower rings only")
		}
	}
	// A test within the package is part of it. One from outside (package x_test)
	// may set the package before a real implementation of what it needs.
	for _, path := range p.TestImports {
		to, ours := room(path)
		if _, toOutside := outside[to]; !ok || !ours || to == from || toOutside || special {
			continue
		}
		if rings[to] >= ring {
			wrong(path, "imports of tests point to lower rings only, unless they are of package "+from+"_test")
		}
	}
	return found
}

// The rule itself must be able to fail.
func TestMistakes(t *testing.T) {
	f := func(from, to string, wrong bool) {
		t.Helper()
		if got := mistakes(listed{ImportPath: from, Imports: []string{to}}); (len(got) > 0) != wrong {
			t.Errorf("%s imports %s: %q", from, to, got)
		}
	}
	f(internal+"logs", internal+"fleet", false)
	f(internal+"logs", "github.com/valyala/fastjson", false)
	f(internal+"sqlstore", internal+"sqlstore/db", false)
	f(internal+"sqlstore/db", internal+"fleet", false)
	f(internal+"app", internal+"config", false)
	f(internal+"conformance", internal+"logs", false)
	f(module+"/cmd/signalbox", internal+"app", false)
	f(module+"/bench", internal+"nats", false)
	f(internal+"config/settingsdoc", internal+"config", false)

	f(internal+"fleet", internal+"logs", true)
	f(internal+"fleet", internal+"sse", true)
	f(internal+"fleet", "golang.org/x/sync/errgroup", true)
	f(internal+"logs", internal+"stream", true)
	f(internal+"logs", internal+"nats", true)
	f(internal+"web", internal+"mqtt", true)
	f(internal+"web", internal+"config", true)
	f(internal+"config", internal+"fleet", true)
	f(internal+"conformance", internal+"nats", true)
	f(internal+"web", module+"/bench", true)
	f(internal+"newcomer", "fmt", true)

	test := listed{ImportPath: internal + "logs", TestImports: []string{internal + "nats"}}
	if len(mistakes(test)) == 0 {
		t.Error("a test of logs may import nats")
	}
	test = listed{ImportPath: internal + "logs", TestImports: []string{internal + "conformance"}}
	if got := mistakes(test); len(got) > 0 {
		t.Error(got)
	}
}
