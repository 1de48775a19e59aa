package logs

import "time"

// maxTag is the length of the longest tag that is taken for one, in bytes.
const maxTag = 64

// maxUptime bounds what is believed to be a time since boot. It is 31 years:
// a number of milliseconds above it is a Unix time, not an uptime.
const maxUptime = 1_000_000_000_000 * time.Millisecond

// text lets one scanner read the decoder's bytes and a caller's string, both
// without a copy.
type text interface{ string | []byte }

// ParseLine reads the prefix that a device's logging library has put before a
// message, whose escape sequences are gone already. It knows these forms:
//
//	I (1234) wifi: text                       ESP-IDF, milliseconds since boot
//	I (12:34:56.789) wifi: text               ESP-IDF, wall clock: no uptime
//	I (2024-01-02 12:34:56.789) wifi: text    ESP-IDF, wall clock: no uptime
//	[  1234][E][file.cpp:12] fn(): text       Arduino-ESP32; the tag is the file
//	[00:00:01.234,567] <wrn> mod: text        Zephyr, time since boot
//
// Every other message is Unknown, with an empty tag and no uptime. The tag is
// a part of message; nothing is allocated.
func ParseLine(message string) (level Level, tag string, uptime time.Duration, hasUptime bool) {
	return parseLine(message)
}

func parseLine[T text](m T) (Level, T, time.Duration, bool) {
	i := 0
	for i < len(m) && (m[i] == ' ' || m[i] == '\t' || m[i] == '\r' || m[i] == '\n') {
		i++
	}
	m = m[i:]
	if len(m) >= 8 {
		switch m[0] {
		case 'E', 'W', 'I', 'D', 'V':
			return parseIDF(m)
		case '[':
			if level, tag, uptime, ok := parseZephyr(m); ok {
				return level, tag, uptime, ok
			}
			return parseArduino(m)
		}
	}
	return none[T]()
}

func none[T text]() (level Level, tag T, uptime time.Duration, hasUptime bool) { return }

// parseIDF reads "I (stamp) tag: text". The Wi-Fi library leaves out the space
// after the colon.
func parseIDF[T text](m T) (Level, T, time.Duration, bool) {
	if m[1] != ' ' || m[2] != '(' {
		return none[T]()
	}
	end := index(m, ')', 3, 3+len("2006-01-02 15:04:05.000000"))
	if end < 0 || end+2 >= len(m) || m[end+1] != ' ' {
		return none[T]()
	}
	stamp := m[3:end]
	uptime, isUptime := parseMillis(stamp)
	if !isUptime && !isWallClock(stamp) {
		return none[T]()
	}
	tag, ok := tagBefore(m[end+2:], ':')
	if !ok {
		return none[T]()
	}
	return letterLevel(m[0]), tag, uptime, isUptime
}

// parseArduino reads "[  1234][E][file.cpp:12] fn(): text". Old cores have no
// time: "[E][file.cpp:12] fn(): text".
func parseArduino[T text](m T) (Level, T, time.Duration, bool) {
	var uptime time.Duration
	var hasUptime bool
	if m[2] != ']' { // a time comes first
		i := 1
		for i < len(m) && m[i] == ' ' {
			i++
		}
		end := index(m, ']', i, i+20)
		if end < 0 {
			return none[T]()
		}
		if uptime, hasUptime = parseMillis(m[i:end]); !hasUptime {
			return none[T]()
		}
		m = m[end+1:]
	}
	if len(m) < len("[E][f:1]") || m[0] != '[' || m[2] != ']' || m[3] != '[' {
		return none[T]()
	}
	level := letterLevel(m[1])
	file, ok := tagBefore(m[4:], ':')
	if level == Unknown || !ok {
		return none[T]()
	}
	if i := 4 + len(file) + 1; i >= len(m) || !isDigit(m[i]) {
		return none[T]()
	}
	for i := len(file) - 2; i >= 0; i-- {
		if file[i] == '/' || file[i] == '\\' {
			file = file[i+1:]
			break
		}
	}
	return level, file, uptime, hasUptime
}

// parseZephyr reads "[00:00:01.234,567] <wrn> mod: text".
func parseZephyr[T text](m T) (Level, T, time.Duration, bool) {
	end := index(m, ']', 1, 1+len("1000000:00:00.000,000"))
	if end < 0 || len(m) < end+len("] <wrn> m:") || m[end+1] != ' ' || m[end+2] != '<' || m[end+6] != '>' || m[end+7] != ' ' {
		return none[T]()
	}
	uptime, ok := parseClock(m[1:end])
	if !ok {
		return none[T]()
	}
	var level Level
	switch string(m[end+3 : end+6]) {
	case "err":
		level = Error
	case "wrn":
		level = Warn
	case "inf":
		level = Info
	case "dbg":
		level = Debug
	default:
		return none[T]()
	}
	tag, ok := tagBefore(m[end+8:], ':')
	if !ok {
		return none[T]()
	}
	return level, tag, uptime, true
}

// parseUptime reads a time since boot as a device may send it: milliseconds
// ("1234", "1234.5") or a clock ("01:02:03.456").
func parseUptime[T text](s T) (time.Duration, bool) {
	if d, ok := parseMillis(s); ok {
		return d, true
	}
	return parseClock(s)
}

// parseMillis reads decimal milliseconds with an optional fraction.
func parseMillis[T text](s T) (time.Duration, bool) {
	n, i, ok := digits(s, 0, 12)
	if !ok {
		return 0, false
	}
	d := time.Duration(n) * time.Millisecond
	if i < len(s) {
		if s[i] != '.' {
			return 0, false
		}
		f, ok := fraction(s[i+1:], time.Millisecond)
		if !ok {
			return 0, false
		}
		d += f
	}
	return d, d < maxUptime
}

// parseClock reads HH:MM:SS with an optional fraction, in which a comma may
// part milli- from microseconds. Hours may have any number of digits from two
// to seven: a clock of uptime does not stop at a day.
func parseClock[T text](s T) (time.Duration, bool) {
	h, i, ok := digits(s, 0, 7)
	if !ok || i < 2 || len(s) < i+6 || s[i] != ':' || s[i+3] != ':' {
		return 0, false
	}
	min, j, ok := digits(s, i+1, 2)
	if !ok || j != i+3 || min > 59 {
		return 0, false
	}
	sec, j, ok := digits(s, i+4, 2)
	if !ok || j != i+6 || sec > 60 { // 60 is a leap second
		return 0, false
	}
	d := time.Duration(h)*time.Hour + time.Duration(min)*time.Minute + time.Duration(sec)*time.Second
	if j < len(s) {
		if s[j] != '.' {
			return 0, false
		}
		f, ok := fraction(s[j+1:], time.Second)
		if !ok {
			return 0, false
		}
		d += f
	}
	return d, d < maxUptime
}

// isWallClock reports whether s is a time of day, with or without a date.
func isWallClock[T text](s T) bool {
	const date = len("2006-01-02 ")
	if len(s) > date && s[4] == '-' && s[7] == '-' && s[10] == ' ' {
		s = s[date:]
	}
	_, ok := parseClock(s)
	return ok
}

// digits reads up to max decimal digits from s[i:]. It fails when there is
// none, or one more than max.
func digits[T text](s T, i, max int) (n int64, end int, ok bool) {
	end = i
	for end < len(s) && isDigit(s[end]) {
		if end-i == max {
			return 0, end, false
		}
		n = n*10 + int64(s[end]-'0')
		end++
	}
	return n, end, end > i
}

// fraction reads all of s as the digits after a point, "234" or "234,567", of
// a number counted in unit.
func fraction[T text](s T, unit time.Duration) (time.Duration, bool) {
	var d time.Duration
	if len(s) == 0 {
		return 0, false
	}
	for i := range len(s) {
		switch {
		case isDigit(s[i]):
			unit /= 10
			d += time.Duration(s[i]-'0') * unit
		case s[i] == ',' && i == 3 && len(s) > 4:
		default:
			return 0, false
		}
	}
	return d, true
}

// tagBefore returns the text before the first sep, without trailing spaces. It
// fails when that is empty, longer than maxTag or not printable.
func tagBefore[T text](s T, sep byte) (T, bool) {
	end := index(s, sep, 0, maxTag)
	for end > 0 && s[end-1] == ' ' {
		end--
	}
	if end <= 0 {
		return none1[T](), false
	}
	for i := range end {
		if s[i] < ' ' || s[i] == 0x7f {
			return s[:0], false
		}
	}
	return s[:end], true
}

func none1[T text]() (t T) { return }

// index returns the index of the first c in s[from:to+1], or -1.
func index[T text](s T, c byte, from, to int) int {
	for i := from; i < len(s) && i <= to; i++ {
		if s[i] == c {
			return i
		}
	}
	return -1
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func letterLevel(c byte) Level {
	switch c {
	case 'E':
		return Error
	case 'W':
		return Warn
	case 'I':
		return Info
	case 'D':
		return Debug
	case 'V':
		return Verbose
	}
	return Unknown
}

// ParseLevel reads a level's name in any case and in the spellings that devices
// and people use ("E", "err", "WARNING", "info"), or a syslog severity from
// "0" to "7" (RFC 5424, section 6.2.1). The second result is false for any
// other name. Nothing is allocated.
func ParseLevel(name string) (Level, bool) { return parseLevel(name) }

func parseLevel[T text](name T) (Level, bool) {
	var lower [len("information")]byte
	if len(name) == 0 || len(name) > len(lower) {
		return Unknown, false
	}
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	switch string(lower[:len(name)]) {
	case "e", "err", "error", "fatal", "crit", "critical", "alert", "emerg", "emergency", "panic", "0", "1", "2", "3":
		return Error, true
	case "w", "wrn", "warn", "warning", "4":
		return Warn, true
	case "i", "inf", "info", "information", "notice", "5", "6":
		return Info, true
	case "d", "dbg", "debug", "7":
		return Debug, true
	case "v", "verbose", "trace":
		return Verbose, true
	}
	return Unknown, false
}
