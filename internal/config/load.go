package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// FileVariable names the settings file, as --config does.
const FileVariable = "SIGNALBOX_CONFIG"

// Sources is everything that settings are read from.
type Sources struct {
	// Flags are the settings given on the command line: name (as an
	// environment variable, FileVariable for --config) to text.
	Flags map[string]string
	// Environ is the environment in the form of os.Environ.
	Environ []string
	// ReadFile returns a file's content and, when it does not exist, an error
	// that is fs.ErrNotExist, like os.ReadFile.
	ReadFile func(path string) ([]byte, error)
}

// Effective is a checked Config and where each of its values came from.
type Effective struct {
	Config
	// Warnings are settings that were given but do nothing, one sentence each.
	Warnings []string

	source map[string]string // by setting; missing = default
}

// A Mistake is one thing that is wrong with the settings.
type Mistake struct {
	Setting string // its name
	Value   string // its text, or "(hidden)"
	Source  string // where it was given: environment, a flag, a file and line, default; "" if that is not known any more
	Want    string // what is allowed
}

// Error returns the mistake on one line.
func (m *Mistake) Error() string {
	value := m.Value
	if value != hidden {
		value = fmt.Sprintf("%q", value)
	}
	if m.Source != "" {
		value += " (" + m.Source + ")"
	}
	return fmt.Sprintf("%s: %s: want %s", m.Setting, value, m.Want)
}

// given is the text of one setting and where it stands.
type given struct {
	text   string
	source string
}

// Load reads, joins and checks all sources. Its error holds every mistake, one
// per line, each a *Mistake or an error about a file; the Effective is then of
// no use.
func Load(from Sources) (*Effective, error) {
	l := loader{from: from, values: map[string]given{}}
	environment := l.environment()
	l.files(environment)
	l.layer(environment)
	l.layer(l.flags())
	return l.finish()
}

// loader collects values, mistakes and warnings from the lowest layer up.
type loader struct {
	from     Sources
	values   map[string]given
	warnings []string
	mistakes []error
}

func (l *loader) wrong(format string, args ...any) {
	l.mistakes = append(l.mistakes, fmt.Errorf(format, args...))
}

// environment returns the variables that are settings of ours; all others are
// none of our business.
func (l *loader) environment() map[string]given {
	found := map[string]given{}
	for _, entry := range l.from.Environ {
		name, text, _ := strings.Cut(entry, "=")
		if known(name) || name == FileVariable {
			found[name] = given{text, "environment"}
		}
	}
	return found
}

// flags returns the settings of the command line.
func (l *loader) flags() map[string]given {
	found := map[string]given{}
	for _, s := range settings() {
		if text, ok := l.from.Flags[s.name]; ok {
			found[s.name] = given{text, "flag --" + s.flag}
		}
	}
	return found
}

// files reads .env, where there is one, and the file that was named.
func (l *loader) files(environment map[string]given) {
	content, err := l.from.ReadFile(".env")
	switch {
	case err == nil:
		l.layer(l.file(".env", content))
	case !errors.Is(err, fs.ErrNotExist):
		l.wrong(".env: %w", err)
	}
	path, ok := l.from.Flags[FileVariable]
	if !ok {
		path = environment[FileVariable].text
	}
	if path == "" {
		return
	}
	content, err = l.from.ReadFile(path)
	if err != nil {
		l.wrong("settings file: %w", err)
		return
	}
	l.layer(l.file(path, content))
}

// layer puts values over those of lower layers. NAME_FILE counts as NAME.
func (l *loader) layer(values map[string]given) {
	for _, s := range settings() {
		plain, ok := values[s.name]
		if ok {
			l.values[s.name] = plain
		}
		if !s.secret() {
			continue
		}
		path, okFile := values[s.name+"_FILE"]
		switch {
		case okFile && ok:
			l.wrong("%s: given twice, in %s and in %s_FILE (%s)", s.name, plain.source, s.name, path.source)
		case okFile && path.text != "":
			content, err := l.from.ReadFile(path.text)
			if err != nil {
				l.wrong("%s_FILE (%s): %w", s.name, path.source, err)
				continue
			}
			// Editors end a file with a newline that is no part of the secret.
			text := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
			l.values[s.name] = given{text, path.text}
		}
	}
}

// finish turns text into values and checks them, each and together.
func (l *loader) finish() (*Effective, error) {
	e := &Effective{source: map[string]string{}, Warnings: l.warnings}
	bad := map[string]bool{}
	for _, s := range settings() {
		v, ok := l.values[s.name]
		if !ok {
			v = given{s.initial, "default"}
		}
		e.source[s.name] = v.source
		if err := s.set(&e.Config, v.text); err != nil {
			shown := v.text
			if s.secret() {
				shown = hidden
			}
			want := s.allowed()
			if d, ok := errors.AsType[*detail](err); ok {
				want += "; " + d.text
			}
			l.mistakes = append(l.mistakes, &Mistake{s.name, shown, v.source, want})
			bad[s.name] = true
		}
	}
	check := checker{Config: &e.Config, bad: bad, source: e.source, readFile: l.from.ReadFile}
	check.all()
	if l.mistakes = append(l.mistakes, check.mistakes...); len(l.mistakes) > 0 {
		return nil, errors.Join(l.mistakes...)
	}
	e.derive()
	return e, nil
}

// Print writes a table of every setting, its value with secrets hidden, and
// where the value came from.
func (e *Effective) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SETTING\tVALUE\tSOURCE") // a tabwriter keeps its error for Flush
	for _, s := range settings() {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.name, s.show(&e.Config), e.source[s.name])
	}
	return t.Flush()
}

// known reports whether name is a setting or the _FILE form of a secret one.
func known(name string) bool { return slices.Contains(names(), name) }

// names returns every name a file or the environment may use. Like settings,
// it is worked out once.
var names = sync.OnceValue(func() []string {
	var list []string
	for _, s := range settings() {
		list = append(list, s.name)
		if s.secret() {
			list = append(list, s.name+"_FILE")
		}
	}
	return list
})

// absent returns the settings of the reference system that mean nothing here.
// Its files keep working: they are accepted with a warning.
func absent() []string {
	return strings.Fields(`
		FLASK_ENV DEBUG WAITRESS_THREADS TASK_MAX_WORKERS TASK_TIMEOUT_SECONDS TASK_CLEANUP_INTERVAL_SECONDS METRICS_UPDATE_INTERVAL
		DB_POOL_SIZE DB_POOL_MAX_OVERFLOW DB_POOL_TIMEOUT DB_POOL_ECHO
		DIAGNOSTICS_ENABLED DIAGNOSTICS_SLOW_QUERY_THRESHOLD_MS DIAGNOSTICS_SLOW_REQUEST_THRESHOLD_MS DIAGNOSTICS_LOG_ALL_QUERIES
		S3_ENDPOINT_URL S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY S3_BUCKET_NAME S3_REGION S3_USE_SSL
		ARCHITECTURE_PIPELINE_TRIGGER_URL MAX_COREDUMPS MAX_FIRMWARES PARSE_SIDECAR_XFER_DIR PARSE_SIDECAR_URL ASSETS_DIR COREDUMPS_DIR`)
}

// file reads lines of NAME=VALUE. Blank lines and lines that start with "#"
// are skipped, "export " in front is allowed, and quotes around a whole value
// are taken off; nothing else in a value has a meaning.
func (l *loader) file(path string, content []byte) map[string]given {
	found := map[string]given{}
	// An editor's byte order mark is no part of the first name.
	text := strings.TrimPrefix(string(content), "\ufeff")
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		where := fmt.Sprintf("%s:%d", filepath.ToSlash(path), number)
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok {
			l.wrong("%s: not NAME=VALUE", where) // the line may be a lost half of a secret: do not show it
			continue
		}
		switch {
		case slices.Contains(absent(), name):
			l.warnings = append(l.warnings, fmt.Sprintf("%s (%s) has no effect", name, where))
			continue
		case !known(name):
			l.wrong("%s: unknown setting %s, the nearest is %s", where, name, nearest(name))
			continue
		}
		if earlier, twice := found[name]; twice {
			l.wrong("%s: %s is already given in %s", where, name, earlier.source)
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		} else if strings.Contains(value, " #") {
			l.wrong(`%s: %s has " #" in its value: quote the value, or put the comment on its own line`, where, name)
			continue
		}
		found[name] = given{value, where}
	}
	return found
}

// nearest returns the known name with the fewest letters changed.
func nearest(name string) string {
	best, fewest := "", 1<<30
	for _, candidate := range names() {
		if n := distance(strings.ToUpper(name), candidate); n < fewest {
			best, fewest = candidate, n
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // row[j]: distance of a[:i] and b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
