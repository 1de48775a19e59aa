package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes. As text it is a number with a unit: B, KB,
// MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024); a plain
// number is bytes. String returns text that UnmarshalText reads as the same size.
type ByteSize int64

var byteUnits = [...]struct {
	name string
	size int64
}{ // Largest first, and "B" after every name that ends in it.
	{"TiB", 1 << 40}, {"TB", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
}

// UnmarshalText reads a size: a whole number or a decimal fraction and a unit.
func (s *ByteSize) UnmarshalText(text []byte) error {
	digits, size := string(text), int64(1)
	for _, u := range byteUnits {
		n := len(digits) - len(u.name)
		if n > 0 && strings.EqualFold(digits[n:], u.name) {
			digits, size = strings.TrimSpace(digits[:n]), u.size
			break
		}
	}
	if whole, err := strconv.ParseUint(digits, 10, 63); err == nil {
		if int64(whole) > math.MaxInt64/size {
			return errors.New("too large")
		}
		*s = ByteSize(int64(whole) * size)
		return nil
	}
	// A fraction is exact to the byte only for small numbers, which is what
	// people write ("1.5GiB"); ParseFloat's other forms are not sizes.
	if digits == "" || strings.Trim(digits, "0123456789.") != "" {
		return errors.New("not a size")
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return errors.New("not a size")
	}
	if f *= float64(size); f >= math.MaxInt64 {
		return errors.New("too large")
	}
	*s = ByteSize(f)
	return nil
}

// String returns the size in the largest unit of 1024 that divides it.
func (s ByteSize) String() string {
	for _, u := range byteUnits {
		if u.size&(u.size-1) == 0 && s != 0 && int64(s)%u.size == 0 {
			return strconv.FormatInt(int64(s)/u.size, 10) + u.name
		}
	}
	return "0B"
}

// Duration is a length of time. As text it is what time.ParseDuration reads,
// with days in front if wanted ("7d", "1d12h"); a plain number is seconds, as
// in the reference system. It is never negative. String returns text that
// UnmarshalText reads as the same duration.
type Duration time.Duration

const day = 24 * time.Hour

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if strings.ContainsAny(s, "+-") {
		return errors.New("not a positive time")
	}
	if n, err := strconv.ParseUint(s, 10, 63); err == nil {
		if n > uint64(math.MaxInt64/time.Second) {
			return errors.New("too long")
		}
		*d = Duration(time.Duration(n) * time.Second)
		return nil
	}
	var total time.Duration
	days, rest, ok := strings.Cut(s, "d")
	if ok {
		n, err := strconv.ParseUint(days, 10, 63)
		if err != nil {
			return errors.New("not a time")
		}
		if n > uint64(math.MaxInt64/day) {
			return errors.New("too long")
		}
		total, s = time.Duration(n)*day, rest
	}
	if !ok || s != "" {
		t, err := time.ParseDuration(s)
		if err != nil {
			return errors.New("not a time")
		}
		if t > math.MaxInt64-total {
			return errors.New("too long")
		}
		total += t
	}
	*d = Duration(total)
	return nil
}

// String returns the duration with whole days in front and without zero parts
// at the end: 7d, 1d12h, 1m30s.
func (d Duration) String() string {
	t := time.Duration(d)
	var days string
	if t >= day {
		days = strconv.FormatInt(int64(t/day), 10) + "d"
		if t %= day; t == 0 {
			return days
		}
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return days + s
}

// Sync says how often the journal is forced to disk: always, which is before
// each acknowledgement, or once in an interval.
type Sync time.Duration

// SyncAlways forces each write to disk before it is acknowledged.
const SyncAlways Sync = 0

// UnmarshalText reads "always" or a duration above zero.
func (s *Sync) UnmarshalText(text []byte) error {
	if string(text) == "always" {
		*s = SyncAlways
		return nil
	}
	var d Duration
	if err := d.UnmarshalText(text); err != nil {
		return err
	}
	if d == 0 {
		return errors.New("not above zero")
	}
	*s = Sync(d)
	return nil
}

// String returns "always" or the interval.
func (s Sync) String() string {
	if s == SyncAlways {
		return "always"
	}
	return Duration(s).String()
}

const hidden = "(hidden)"

// Secret is text that must not be shown: every way of printing it gives
// "(hidden)". Only Reveal returns it.
type Secret string

// UnmarshalText takes the text as it is.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(text)
	return nil
}

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "(hidden)", or "" when there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString keeps %#v from showing the secret.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText keeps encoders and slog from showing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// SecretURL is a URL that may hold a password: every way of printing it hides
// the password. Only Reveal returns it whole. It has no slash at the end.
type SecretURL string

// UnmarshalText takes a URL with a scheme and "//", or nothing.
func (u *SecretURL) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*u = ""
		return nil
	}
	parsed, err := url.Parse(string(text))
	if err != nil || parsed.Scheme == "" || parsed.Opaque != "" {
		return errors.New("not a URL") // url.Parse's own error repeats its input, password and all
	}
	*u = SecretURL(strings.TrimRight(string(text), "/"))
	return nil
}

// Reveal returns the URL with its password.
func (u SecretURL) Reveal() string { return string(u) }

// parse returns the URL in parts; a SecretURL that was unmarshalled is always
// one.
func (u SecretURL) parse() *url.URL {
	parsed, err := url.Parse(string(u))
	if err != nil {
		return new(url.URL)
	}
	return parsed
}

// String returns the URL with "(hidden)" for the password, whether it stands
// before the host or in the query.
func (u SecretURL) String() string {
	if u == "" {
		return ""
	}
	parsed, err := url.Parse(string(u))
	if err != nil {
		return hidden
	}
	_, found := parsed.User.Password()
	if found {
		parsed.User = url.UserPassword(parsed.User.Username(), hidden)
	}
	query := parsed.Query()
	for name := range query {
		if lower := strings.ToLower(name); strings.Contains(lower, "password") || strings.Contains(lower, "secret") || strings.Contains(lower, "token") {
			query.Set(name, hidden)
			found = true
		}
	}
	if !found {
		return string(u)
	}
	parsed.RawQuery = query.Encode()
	// Written for people: the brackets need no escaping there.
	return strings.NewReplacer("%28hidden%29", hidden).Replace(parsed.String())
}

// GoString keeps %#v from showing the password.
func (u SecretURL) GoString() string { return strconv.Quote(u.String()) }

// MarshalText keeps encoders and slog from showing the password.
func (u SecretURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Origins is a list of web origins (RFC 6454, section 7), each a scheme and a
// host with no path. As text it is a JSON list of strings.
type Origins []string

// UnmarshalText reads a JSON list; a slash at the end of an origin is dropped.
func (o *Origins) UnmarshalText(text []byte) error {
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return errors.New("not a JSON list of strings")
	}
	for i, origin := range list {
		list[i] = strings.TrimRight(origin, "/")
		u, err := url.Parse(list[i])
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != list[i] {
			return fmt.Errorf("%q is not an origin", origin)
		}
	}
	*o = list
	return nil
}

// String returns the list as JSON.
func (o Origins) String() string {
	b, err := json.Marshal([]string(o))
	if err != nil || o == nil {
		return "[]"
	}
	return string(b)
}

// Networks is a list of networks (RFC 4632). As text it is a JSON list of
// strings, each a network or a single address.
type Networks []netip.Prefix

// UnmarshalText reads a JSON list.
func (n *Networks) UnmarshalText(text []byte) error {
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return errors.New("not a JSON list of strings")
	}
	networks := make(Networks, len(list))
	for i, item := range list {
		network, err := netip.ParsePrefix(item)
		if addr, e := netip.ParseAddr(item); e == nil {
			network, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return fmt.Errorf("%q is not a network", item)
		}
		networks[i] = network.Masked()
	}
	*n = networks
	return nil
}

// String returns the list as JSON.
func (n Networks) String() string {
	b, _ := json.Marshal(append([]netip.Prefix{}, n...)) // of texts: always marshals
	return string(b)
}

// HistoryLimits are the limits of what is kept of the device models, by their
// code. As text it is a JSON object: {"relay":{"max_age":"30d","max_bytes":"2GiB"}}.
type HistoryLimits map[string]HistoryLimit

// HistoryLimit is what is kept of one device model; 0 does not limit.
type HistoryLimit struct {
	MaxAge   Duration `json:"max_age,omitempty"`
	MaxBytes ByteSize `json:"max_bytes,omitempty"`
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *HistoryLimits) UnmarshalText(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var limits map[string]HistoryLimit
	if err := d.Decode(&limits); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	for model, limit := range limits {
		if model == "" || limit.MaxAge < 0 || limit.MaxBytes < 0 {
			return errors.New("no model, or a negative limit")
		}
	}
	*l = limits
	return nil
}

// String returns the limits as text.
func (l HistoryLimits) String() string {
	b, _ := json.Marshal(l) // of strings and numbers: always marshals
	if len(l) == 0 {
		return "{}"
	}
	return string(b)
}
