package logs

import (
	"bytes"
	"regexp"
	"slices"
)

// redacted is what stands in the place of a secret.
const redacted = "[redacted]"

// rule is what a secret was recognised by.
type rule uint8

const (
	ruleBearer   rule = iota // Bearer <token>
	ruleJWT                  // a JSON Web Token (RFC 7519) by itself
	ruleURL                  // scheme://user:<password>@host
	rulePassword             // password: <secret>, and what else it is called
	ruleField                // the value of a JSON field that is called so
	ruleOwn                  // a pattern of the operator's
	ruleCount
)

var ruleNames = [ruleCount]string{"bearer", "jwt", "url", "password", "field", "own"}

// Redactor knows what a secret in a log line looks like. It never changes and
// is safe for concurrent use; nil finds nothing.
type Redactor struct {
	builtIn bool
	own     []*regexp.Regexp
}

// NewRedactor returns a Redactor of the built-in rules, if they are wanted, and
// patterns of one's own: of what matches, the first group is the secret, or all
// of it if the pattern has no group.
func NewRedactor(builtIn bool, own []*regexp.Regexp) *Redactor {
	if !builtIn && len(own) == 0 {
		return nil
	}
	return &Redactor{builtIn, own}
}

// secret is a part of a text that is to go.
type secret struct {
	from, to int
	rule     rule
}

// redaction applies a Redactor to one text after another. Texts are UTF-8.
type redaction struct {
	*Redactor
	counts [ruleCount]int // secrets that were replaced, by rule

	text  []byte   // the last result
	spare []byte   // memory for the next step of it
	found []secret // in the order of finding; they may overlap
	scan  scan
	// quotes is where the last value of each kind of quotes ends.
	quotes [3][maxEscapes + 1]int
}

// maxEscapes bounds the backslashes before a quote that are taken for escapes.
const maxEscapes = 7

// scan is what is known of the text that is being searched. It is what keeps
// the search linear, whatever a device sends.
type scan struct {
	value   secret // the last value without quotes; rule is not used
	json    bool   // how that was read
	query   bool
	tokens  int  // where the last run of a token's characters ends
	twoDots int  // the last place in it behind which there are two dots
	quoted  bool // quotes is of this text
	address int  // where the last run of an address' characters ends
	at      int  // the last "@" in it, or -1
}

// clean returns s without its secrets and whether it had any. The result is s
// itself or valid until the next call.
func (r *redaction) clean(s []byte) ([]byte, bool) {
	changed := false
	if r.builtIn && r.find(s) {
		s, changed = r.replace(s), true
	}
	for _, pattern := range r.own {
		if r.findOwn(pattern, s) {
			s, changed = r.replace(s), true
		}
	}
	return s, changed
}

// has reports whether s has a secret.
func (r *redaction) has(s []byte) bool {
	if r.Redactor == nil {
		return false
	}
	if r.builtIn && r.find(s) {
		return true
	}
	return slices.ContainsFunc(r.own, func(pattern *regexp.Regexp) bool { return r.findOwn(pattern, s) })
}

// names reports whether the value of a field with that name is a secret.
func (r *redaction) names(field []byte) bool {
	return r.Redactor != nil && r.builtIn && len(field) > 0 && secretName(field) != noSecret
}

// replace returns s with what was found replaced, and counts it.
func (r *redaction) replace(s []byte) []byte {
	if len(r.found) > 1 {
		slices.SortFunc(r.found, func(a, b secret) int { return a.from - b.from })
	}
	out, done := r.spare[:0], 0
	for i := 0; i < len(r.found); {
		f := r.found[i]
		for i++; i < len(r.found) && r.found[i].from < f.to; i++ {
			f.to = max(f.to, r.found[i].to)
		}
		out = append(append(out, s[done:f.from]...), redacted...)
		done = f.to
		r.counts[f.rule]++
	}
	out = append(out, s[done:]...)
	r.text, r.spare = out, r.text
	return out
}

// add notes the secret s[from:to], unless it is gone already.
func (r *redaction) add(s []byte, from, to int, rule rule) {
	if from < to && (to-from != len(redacted) || string(s[from:to]) != redacted) {
		r.found = append(r.found, secret{from, to, rule})
	}
}

// findOwn looks for what the pattern matches.
func (r *redaction) findOwn(pattern *regexp.Regexp, s []byte) bool {
	r.found = r.found[:0]
	for _, m := range pattern.FindAllSubmatchIndex(s, -1) {
		if len(m) > 2 {
			m = m[2:]
		}
		r.add(s, m[0], m[1], ruleOwn) // a group without a part in the match is -1, -1
	}
	return len(r.found) > 0
}

// find looks for what the built-in rules match. It reads s once and looks
// closer only where one of a few characters stands. A place that belongs to a
// secret is no exception: it may be the beginning of another that ends later.
func (r *redaction) find(s []byte) bool {
	r.found = r.found[:0]
	r.scan = scan{}
	for i, c := range s {
		if !triggers[c] {
			continue
		}
		switch {
		case c == 'J':
			if i > 0 && s[i-1] == 'y' {
				r.findJWT(s, i)
			}
		case c|0x20 == 'b':
			if i+1 < len(s) && s[i+1]|0x20 == 'e' {
				r.findBearer(s, i)
			}
		default:
			if c == ':' && i+2 < len(s) && (s[i+1] == '/' || s[i+1] == '\\') {
				r.findURL(s, i)
			}
			if i > 0 && mayEnd[s[i-1]] {
				r.findPassword(s, i)
			}
		}
		if n := len(r.found); n > 0 && r.found[n-1].to == len(s) {
			break
		}
	}
	return len(r.found) > 0
}

// triggers are the characters by which the built-in rules are looked for.
var triggers = [256]bool{':': true, '=': true, 'J': true, 'b': true, 'B': true}

// mayEnd are the characters that may stand before a ":" or "=" that matters:
// the last of a name of secrets, and what is skipped behind it.
var mayEnd = func() (is [256]bool) {
	for _, c := range []byte("dDeEkKsSyYtTnN \t)\"'`\\]") {
		is[c] = true
	}
	return is
}()

// findBearer reads "Bearer <token>" (RFC 6750, section 2.1) at i, also with
// other marks between the two.
func (r *redaction) findBearer(s []byte, i int) {
	const word, shortest = "bearer", 16
	from := i + len(word)
	if len(s) < from+1+shortest || !equalFold(s[i:from], word) {
		return
	}
	for end := from + 8; from < end && from < len(s); from++ {
		if c := s[from]; c != ' ' && c != '\t' && c != ':' && c != '=' && c != '"' && c != '\'' && c != '\\' {
			break
		}
	}
	if bytes.HasPrefix(s[from:], []byte("%20")) {
		from += len("%20")
	}
	if from == i+len(word) {
		return
	}
	to := from
	for to < len(s) && (isTokenChar(s[to]) || s[to] == '~' || s[to] == '+' || s[to] == '/') {
		to++
	}
	if to-from < shortest {
		return
	}
	for to < len(s) && s[to] == '=' {
		to++
	}
	r.add(s, from, to, ruleBearer)
}

// findJWT reads a token of three or more parts whose first begins with "eyJ",
// which is what `{"` begins with in base64url; i is at its J.
func (r *redaction) findJWT(s []byte, i int) {
	from := i - 2
	if from < 0 || s[from] != 'e' || s[from+1] != 'y' {
		return
	}
	if from >= r.scan.tokens {
		to := i
		for to < len(s) && isTokenChar(s[to]) {
			to++
		}
		for s[to-1] == '.' { // not beyond i
			to--
		}
		r.scan.tokens = to
		last := bytes.LastIndexByte(s[from:to], '.')
		r.scan.twoDots = from + bytes.LastIndexByte(s[from:from+max(0, last)], '.')
	}
	if r.scan.twoDots > from {
		r.add(s, from, r.scan.tokens, ruleJWT)
	}
}

// findURL reads "://user:<password>@" at i. A password that was not encoded may
// hold what ends the authority of a URL (RFC 3986, section 3.2); it is
// recognised by what stands before that being no port.
func (r *redaction) findURL(s []byte, i int) {
	if i == 0 || !isAlnum(s[i-1]) {
		return
	}
	from := i + 1
	for range 2 {
		if from < len(s) && s[from] == '\\' { // JSON may write \/
			from++
		}
		if from >= len(s) || s[from] != '/' {
			return
		}
		from++
	}
	if from >= r.scan.address {
		to := from
		for r.scan.at = -1; to < len(s) && s[to] > ' ' && s[to] != '"' && s[to] != '\'' && s[to] != '`' && s[to] != '<' && s[to] != '>'; to++ {
			if s[to] == '@' {
				r.scan.at = to
			}
		}
		r.scan.address = to
	}
	colon, at, end := -1, -1, from
authority:
	for ; end < r.scan.address; end++ {
		switch s[end] {
		case '/', '?', '#', '\\':
			break authority
		case ':':
			if colon < 0 {
				colon = end
			}
		case '@':
			at = end
		}
	}
	if colon < 0 {
		return
	}
	if at < 0 && !isPort(s[colon+1:end]) {
		at = r.scan.at
	}
	r.add(s, colon+1, at, ruleURL)
}

// findPassword reads a name such as "password" before the ":" or "=" at i, and
// the value behind it, in the forms that programs print: password: secret,
// Passphrase (6): secret, psk='secret', &wifi_password=secret and
// "password":"secret", whose quotes may be escaped.
func (r *redaction) findPassword(s []byte, i int) {
	end, quoted := nameBefore(s, i)
	if end == 0 {
		return
	}
	switch secretName(s[:end]) {
	case noSecret:
		return
	case secretField:
		if !quoted {
			return
		}
	}
	from := i + 1
	if from < len(s) && s[i] == ':' && s[from] == ':' {
		return // Password::check
	}
	for from < len(s) && (s[from] == ' ' || s[from] == '\t' || s[from] == '=' || s[from] == '>') {
		from++
	}
	if inner, to, ok := r.quotedValue(s, from); ok {
		r.add(s, inner, to, rulePassword)
		return
	}
	query := s[i] == '=' && inQuery(s[:end])
	to := r.plainValue(s, from, quoted && s[i] == ':', query)
	if quoted {
		switch string(s[from:to]) {
		case "null", "true", "false":
			return
		}
	}
	r.add(s, from, to, rulePassword)
}

// nameBefore returns where the name before the separator at i ends, and
// whether it stands in quotes.
func nameBefore(s []byte, i int) (end int, quoted bool) {
	end = skipBlanks(s, i)
	if end > 0 && s[end-1] == ')' { // a length
		open := end - 1
		for open > 0 && end-open < 5 && isDigit(s[open-1]) {
			open--
		}
		if open > 0 && open < end-1 && s[open-1] == '(' {
			end = skipBlanks(s, open-1)
		}
	}
	for n := 0; end > 0 && n < 16; n++ {
		switch s[end-1] {
		case '"', '\'', '`':
			quoted = true
		case '\\', ']':
		default:
			return end, quoted
		}
		end--
	}
	return end, quoted
}

// skipBlanks returns where the few blanks before i begin.
func skipBlanks(s []byte, i int) int {
	for n := 0; n < 4 && i > 0 && (s[i-1] == ' ' || s[i-1] == '\t'); n++ {
		i--
	}
	return i
}

// inQuery reports whether the name at the end of s is one of a URL's query or
// of a form.
func inQuery(s []byte) bool {
	for n := 0; n < 32 && len(s) > 0; n++ {
		c := s[len(s)-1]
		if c == '?' || c == '&' {
			return true
		}
		if !isAlnum(c) && c != '_' && c != '-' {
			return false
		}
		s = s[:len(s)-1]
	}
	return false
}

// quotedValue finds the end of the value that begins at from with a quote,
// escaped or not. Without a closing quote it is the rest.
func (r *redaction) quotedValue(s []byte, from int) (inner, to int, ok bool) {
	depth := 0 // backslashes before the quote
	for from+depth < len(s) && depth < maxEscapes && s[from+depth] == '\\' {
		depth++
	}
	if from+depth >= len(s) {
		return 0, 0, false
	}
	quote := s[from+depth]
	kind := bytes.IndexByte([]byte("\"'`"), quote)
	if kind < 0 {
		return 0, 0, false
	}
	if !r.scan.quoted {
		r.scan.quoted, r.quotes = true, [3][maxEscapes + 1]int{}
	}
	end := &r.quotes[kind][depth]
	inner = from + depth + 1
	if inner < *end { // within one of the same quotes, which ends where that does
		return inner, *end, true
	}
	run := 0
	for i := inner; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			run++
			continue
		// With each level of escaping, a quote of the level within has twice as
		// many backslashes and one.
		case s[i] == quote && run%(2*(depth+1)) == depth && (i+1 == len(s) || !isAlnum(s[i+1])):
			*end = i - depth
			return inner, *end, true
		}
		run = 0
	}
	*end = len(s)
	return inner, *end, true
}

// plainValue returns the end of the value without quotes that begins at from:
// at white space, in JSON and queries at what ends a value there, and where a
// comma and another name follow.
func (r *redaction) plainValue(s []byte, from int, json, query bool) int {
	if v := &r.scan.value; from >= v.from && from < v.to && r.scan.json == json && r.scan.query == query {
		return trimValue(s, from, v.to)
	}
	to := from
	if bytes.HasPrefix(s[from:], []byte(redacted)) {
		to += len(redacted)
	}
value:
	for ; to < len(s); to++ {
		switch c := s[to]; {
		case c <= ' ':
			break value
		case json && (c == ',' || c == '}' || c == ']'), query && c == '&':
			break value
		case (c == ',' || c == ';') && isLabel(s[to+1:]):
			break value
		}
	}
	r.scan.value, r.scan.json, r.scan.query = secret{from: from, to: to}, json, query
	return trimValue(s, from, to)
}

// trimValue cuts marks from the end of a value that are more likely those of
// the text around it.
func trimValue(s []byte, from, to int) int {
	for n := 0; n < 3 && to > from && string(s[from:to]) != redacted && bytes.IndexByte([]byte(".,;)]}>'\"`\\"), s[to-1]) >= 0; n++ {
		to--
	}
	return to
}

// isLabel reports whether s begins with a name and a separator.
func isLabel(s []byte) bool {
	for i := 0; i < len(s) && i <= 32; i++ {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '-' {
			return i > 0 && (c == ':' || c == '=')
		}
	}
	return false
}

// named says what a name means.
type named uint8

const (
	noSecret     named = iota
	secretField        // of a field in JSON it is that of a secret; in prose it may be anything
	secretAlways       // it is that of a secret wherever it stands
)

// secretName says what the name means that s ends with. Case and what parts
// its words do not count: wifiPassword, WIFI_PASSWORD and "Wi-Fi password".
func secretName(s []byte) named {
	if len(s) < 2 {
		return noSecret
	}
	always := false
	switch last := [2]byte{s[len(s)-2] | 0x20, s[len(s)-1] | 0x20}; string(last[:]) {
	case "rd":
		always = endsIn(s, "password")
	case "wd":
		always = endsIn(s, "passwd") || endsIn(s, "pwd")
	case "se":
		always = endsIn(s, "passphrase")
	case "sk":
		always = endsIn(s, "psk")
	case "ss":
		always = endsIn(s, "wifipass") || endsIn(s, "wlanpass") || endsIn(s, "wpapass") || endsIn(s, "stapass") || endsIn(s, "appass") || endsIn(s, "mqttpass")
	case "ey":
		always = endsIn(s, "apikey") || endsIn(s, "wifikey") || endsIn(s, "wlankey") || endsIn(s, "wpakey") || endsIn(s, "networkkey") || endsIn(s, "presharedkey")
	case "et":
		if always = endsIn(s, "clientsecret"); !always && endsIn(s, "secret") {
			return secretField
		}
	case "en":
		if always = endsIn(s, "accesstoken") || endsIn(s, "refreshtoken"); !always && endsIn(s, "token") {
			return secretField
		}
	}
	if always {
		return secretAlways
	}
	return noSecret
}

// endsIn reports whether s ends in name, whose letters are small.
func endsIn(s []byte, name string) bool {
	i := len(s)
	for n := len(name) - 1; n >= 0; n-- {
		if i > 0 && n < len(name)-1 && (s[i-1] == '_' || s[i-1] == '-' || s[i-1] == ' ') {
			i--
		}
		if i == 0 || s[i-1]|0x20 != name[n] {
			return false
		}
		i--
	}
	return true
}

func equalFold(s []byte, letters string) bool {
	for i, c := range s {
		if c|0x20 != letters[i] {
			return false
		}
	}
	return len(s) == len(letters)
}

func isPort(s []byte) bool {
	for _, c := range s {
		if !isDigit(c) {
			return false
		}
	}
	return len(s) > 0
}

func isAlnum(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' }

// isTokenChar reports whether c is of base64url (RFC 4648, section 5) or a dot.
func isTokenChar(c byte) bool { return isAlnum(c) || c == '-' || c == '_' || c == '.' }
