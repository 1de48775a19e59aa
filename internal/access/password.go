package access

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"signalbox/internal/fleet"
)

// Bounds of a password, in bytes.
const (
	minPassword = 10
	maxPassword = 1024
)

// cost is the parameters of argon2id (RFC 9106): memory in KiB, passes, lanes.
type cost struct {
	memory, passes uint32
	lanes          uint8
}

// usualCost is what new hashes take: the least that OWASP's Password Storage
// Cheat Sheet advises.
var usualCost = cost{memory: 19 << 10, passes: 2, lanes: 1}

// What a hash in the store may ask of us at most.
const (
	maxMemory = 256 << 10 // KiB
	maxPasses = 16
	maxLanes  = 16
	saltBytes = 16
	keyBytes  = 32
)

// hashed is a password's hash.
type hashed struct {
	cost
	salt, key []byte
}

// errHash is the error for what is no PHC string of argon2id.
var errHash = errors.New("not an argon2id hash")

// parseHash reads a PHC string, such as
// $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>.
func parseHash(s string) (h hashed, err error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return h, errHash
	}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return h, errHash
	}
	var numbers [3]uint64
	for i, limit := range [3]struct {
		name string
		most uint64
	}{{"m=", maxMemory}, {"t=", maxPasses}, {"p=", maxLanes}} {
		digits, ok := strings.CutPrefix(params[i], limit.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n == 0 || n > limit.most || strconv.FormatUint(n, 10) != digits {
			return h, errHash
		}
		numbers[i] = n
	}
	h.cost = cost{uint32(numbers[0]), uint32(numbers[1]), uint8(numbers[2])}
	encoding := base64.RawStdEncoding.Strict()
	if h.salt, err = encoding.DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return h, errHash
	}
	if h.key, err = encoding.DecodeString(parts[5]); err != nil || len(h.key) < 16 || len(h.key) > 64 {
		return h, errHash
	}
	return h, nil
}

// String returns the PHC string.
func (h hashed) String() string {
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.lanes, encode(h.salt), encode(h.key))
}

// fits reports whether the password is the one that was hashed.
func (h hashed) fits(password string) bool {
	key := argon2.IDKey(normal(password), h.salt, h.passes, h.memory, h.lanes, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(key, h.key) == 1
}

// normal returns the bytes of a password. What looks the same is the same,
// whichever keyboard it was typed on (RFC 8265, section 4.2).
func normal(password string) []byte { return norm.NFC.Bytes([]byte(password)) }

// hashing is how many passwords are hashed at once, and how many may wait. Each
// takes usualCost.memory and a core for some hundredths of a second.
const (
	hashing     = 2
	waitForHash = 64
)

// hashers bounds the work of hashing.
type hashers struct{ running, waiting chan struct{} }

func newHashers() hashers {
	return hashers{make(chan struct{}, hashing), make(chan struct{}, hashing+waitForHash)}
}

// do runs f when it is its turn. When too many wait already, the error is a
// *TooManyAttempts.
func (h hashers) do(ctx context.Context, f func()) error {
	select {
	case h.waiting <- struct{}{}:
	default:
		return tooMany(time.Second)
	}
	defer func() { <-h.waiting }()
	select {
	case h.running <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.running }()
	f()
	return nil
}

// newHash returns the PHC string for a password.
func (s *Service) newHash(ctx context.Context, password string) (hash string, err error) {
	err = s.hashers.do(ctx, func() {
		h := hashed{cost: s.cost, salt: make([]byte, saltBytes)}
		_, _ = rand.Read(h.salt) // never fails
		h.key = argon2.IDKey(normal(password), h.salt, h.passes, h.memory, h.lanes, keyBytes)
		hash = h.String()
	})
	return hash, err
}

// checkPassword reports whether hash is of the password, and whether it should be
// made anew because it was made with other parameters. For a hash of nobody, "",
// it does the same work.
func (s *Service) checkPassword(ctx context.Context, hash, password string) (fits, anew bool, err error) {
	h, broken := parseHash(hash)
	if broken != nil || len(password) > maxPassword {
		h = hashed{cost: s.cost, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
		broken = errHash
		password = password[:min(len(password), maxPassword)]
	}
	err = s.hashers.do(ctx, func() { fits = h.fits(password) && broken == nil })
	return fits, fits && h.cost != s.cost, err
}

// weakPassword says what is wrong with a new password, if anything.
func weakPassword(password string, names ...string) error {
	switch {
	case len(password) < minPassword:
		return fleet.E(fleet.Invalid, nil, "The password must have at least %d characters", minPassword)
	case len(password) > maxPassword:
		return fleet.E(fleet.Invalid, nil, "The password must have at most %d bytes", maxPassword)
	}
	plain := strings.ToLower(password)
	for _, name := range names {
		if name != "" && plain == strings.ToLower(name) {
			return fleet.E(fleet.Invalid, nil, "The password must not be the name")
		}
	}
	if strings.Trim(plain, plain[:1]) == "" {
		return fleet.E(fleet.Invalid, nil, "The password must not be one character again and again")
	}
	for _, common := range strings.Fields(commonPasswords) {
		if plain == common {
			return fleet.E(fleet.Invalid, nil, "The password is one that everybody tries first")
		}
	}
	return nil
}

// commonPasswords is those of at least ten characters that are guessed first, in
// small letters.
const commonPasswords = `
0123456789 01234567890 1234567890 12345678901 123456789012 0987654321 9876543210 1234512345 1234554321 1122334455
1212121212 1231231230 123123123123 123456123456 1q2w3e4r5t 1q2w3e4r5t6y 1qaz2wsx3edc 1qazxsw23edc q1w2e3r4t5 q1w2e3r4t5y6
qazwsxedcrfv qwertyuiop qwertyuiop[] qwertyuiop123 qwerty12345 qwerty123456 qwerty1234 qwertz12345 qwertzuiop asdfghjkl123
asdfghjkl; zxcvbnm123 abcdefghij abcdefghijk abcd123456 abc123456789 abcde12345 a123456789 a1234567890 aa12345678 123456789a
123456789q 123456789abc password12 password123 password1234 password12345 passwordpassword p@ssword123 passw0rd123 p@ssw0rd123
p@ssw0rd1234 mypassword mypassword1 changeme123 changemenow changeit123 letmein123 letmein1234 welcome123 welcome1234
welcome12345 iloveyou12 iloveyou123 iloveyou1234 administrator administrator1 admin12345 admin123456 admin1234567 adminadmin
root123456 rootroot123 superuser123 test123456 test1234567 testtest123 testpassword guest12345 default123 secret1234
secretsecret signalbox1 signalbox123 sunshine123 princess123 football123 baseball123 basketball michelle123 liverpool123
manchester superman123 batman12345 dragon12345 monkey12345 master12345 starwars123 trustno1trustno1 correcthorsebatterystaple
`
