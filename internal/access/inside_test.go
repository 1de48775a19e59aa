package access

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"signalbox/internal/fleet"
)

// drawRoles draws any set of roles, among them ones that mean nothing.
func drawRoles(t *rapid.T, label string) []string {
	return sorted(rapid.SliceOfN(rapid.SampledFrom(append(Roles(), "unknown")), 0, 4).Draw(t, label))
}

func drawLimit(t *rapid.T, label string) Limit {
	list := func(what string, from ...string) []string {
		return sorted(rapid.SliceOfN(rapid.SampledFrom(from), 0, 2).Draw(t, label+" "+what))
	}
	return Limit{Models: list("models", "a", "b", "c"), Tags: list("tags", "x", "y", "z")}
}

// A token may what it and its owner both may: never more, and never less.
func TestTokenWithinOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owner := Principal{Roles: drawRoles(t, "owner"), Limit: drawLimit(t, "owner")}
		own := Principal{Roles: drawRoles(t, "token"), Limit: drawLimit(t, "token")}
		both := Principal{Roles: bothRoles(owner.Roles, own.Roles), Limit: bothLimits(owner.Limit, own.Limit)}
		for _, role := range Roles() {
			if got, want := both.Has(role), owner.Has(role) && own.Has(role); got != want {
				t.Fatalf("%v and %v are %v: %s is %v", owner.Roles, own.Roles, both.Roles, role, got)
			}
		}
		if !slices.IsSorted(both.Roles) {
			t.Fatalf("%v is not sorted", both.Roles)
		}
		device := fleet.DeviceRef{
			ModelCode: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "model"),
			Tags:      fleet.NewTags(rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "y", "z", "w"}), 0, 3, rapid.ID).Draw(t, "tags")...),
		}
		if got, want := both.May(device), owner.May(device) && own.May(device); got != want {
			t.Fatalf("%+v and %+v: %+v is %v", owner.Limit, own.Limit, device, got)
		}
		if got, want := both.Limit.AllowsModel(device.ModelCode), owner.Limit.AllowsModel(device.ModelCode) && own.Limit.AllowsModel(device.ModelCode); got != want {
			t.Fatalf("%+v and %+v: the model %s is %v", owner.Limit, own.Limit, device.ModelCode, got)
		}
		if both.Limit.None() != (owner.Limit.None() && own.Limit.None()) {
			t.Fatalf("%+v and %+v are no limit", owner.Limit, own.Limit)
		}
	})
}

// Whatever was done, the state in memory is that of the store.
func TestStateFollows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st := newState(Stored{})
		people, sessions, tokens := map[int64]StoredPerson{}, map[string]StoredSession{}, map[int64]StoredToken{}
		next := int64(0)
		id := rapid.Int64Range(1, 8)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			next++
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0, 1:
				p := StoredPerson{Account: Account{ID: next, Subject: randomText(), External: rapid.Bool().Draw(t, "external")}}
				if !p.External {
					p.Username = randomText()
				}
				people[next] = p
				st.putPerson(p)
			case 2:
				x := StoredSession{ID: randomText(), Person: id.Draw(t, "of"), Hash: hashOf(randomText())}
				if _, ok := people[x.Person]; ok {
					sessions[x.ID] = x
				}
				st.putSession(x)
			case 3:
				x := StoredToken{TokenInfo: TokenInfo{ID: next}, Person: id.Draw(t, "of"), Hash: hashOf(randomText())}
				if _, ok := people[x.Person]; ok {
					tokens[next] = x
				}
				st.putToken(x)
			case 4:
				gone := id.Draw(t, "gone")
				delete(people, gone)
				for id, x := range sessions {
					if x.Person == gone {
						delete(sessions, id)
					}
				}
				for id, x := range tokens {
					if x.Person == gone {
						delete(tokens, id)
					}
				}
				st.deletePerson(gone)
			case 5:
				for id := range sessions {
					delete(sessions, id)
					st.deleteSession(id)
					break
				}
			case 6:
				if p, ok := people[id.Draw(t, "changed")]; ok {
					p.Name = randomText()
					people[p.ID] = p
					st.putPerson(p)
				}
			}
		}
		local, named := 0, 0
		for _, p := range people {
			if !p.External {
				local++
			}
			if p.Username != "" {
				named++
			}
			if st.people[p.ID].Name != p.Name || st.bySubject[p.Subject] != st.people[p.ID] {
				t.Fatalf("person %d is not as stored", p.ID)
			}
		}
		for _, x := range sessions {
			if hash, _ := unhex(x.Hash); st.opens[hash] == nil || st.opens[hash] != st.people[x.Person].sessions[x.ID] {
				t.Fatal("a session is lost")
			}
		}
		for _, x := range tokens {
			if hash, _ := unhex(x.Hash); st.unlocks[hash] == nil || st.unlocks[hash] != st.people[x.Person].tokens[x.ID] {
				t.Fatal("a token is lost")
			}
		}
		if st.local != local || len(st.people) != len(people) || len(st.bySubject) != len(people) || len(st.byName) != named ||
			len(st.sessions) != len(sessions) || len(st.opens) != len(sessions) || len(st.tokens) != len(tokens) || len(st.unlocks) != len(tokens) {
			t.Fatalf("something is left over: %+v", st)
		}
	})
}

func TestGuessesAreBounded(t *testing.T) {
	var g guesses
	now := time.Now()
	for i := range 3 * guessEntries {
		if err := g.begin(strings.Repeat("n", i%70), fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff), now); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.entries) != guessEntries || g.order.Len() != guessEntries {
		t.Errorf("%d and %d entries", len(g.entries), g.order.Len())
	}
	for k := range g.entries {
		if len(k.name) > maxUsername || len(k.address) > 64 {
			t.Errorf("a key of %d and %d bytes", len(k.name), len(k.address))
		}
	}
}

func TestParseHash(t *testing.T) {
	h := hashed{cost: usualCost, salt: []byte("0123456789abcdef"), key: []byte("0123456789abcdef0123456789abcdef")}
	const good = "$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
	if h.String() != good {
		t.Errorf("got %s", h)
	}
	if got, err := parseHash(good); err != nil || got.String() != good {
		t.Errorf("got %v, %v", got, err)
	}
	f := func(old, new string) {
		t.Helper()
		if got, err := parseHash(strings.Replace(good, old, new, 1)); err == nil {
			t.Errorf("%s was taken as %v", strings.Replace(good, old, new, 1), got)
		}
	}
	f(good, "")
	f("$argon2id", "argon2id")
	f("argon2id", "argon2i")
	f("v=19", "v=16")
	f("m=19456", "m=0")
	f("m=19456", "m=019456")
	f("m=19456", "m=+19456")
	f("m=19456", "m=262145")
	f("m=19456", "m=99999999999999999999")
	f("t=2", "t=17")
	f("p=1", "p=0")
	f("p=1", "p=257")
	f("p=1", "p=1,x=1")
	f("m=19456,t=2", "t=2,m=19456")
	f("MDEyMzQ1Njc4OWFiY2RlZg$", "MDEy$")
	f("MDEyMzQ1Njc4OWFiY2RlZg$", "MDEyMzQ1Njc4OWFiY2RlZh$") // bits beyond the end
	f("ZWY", "ZWY=")
	f("ZWY", "$")
}

// A hash that was made elsewhere: `echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1`.
func TestForeignHash(t *testing.T) {
	h, err := parseHash("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	if err != nil || !h.fits("password") || h.fits("Password") {
		t.Errorf("it does not fit: %v", err)
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY")
	f.Add("$argon2id$v=19$m=,t=,p=$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHash(s)
		if err != nil {
			return
		}
		if h.String() != s {
			t.Errorf("%q is read as %q", s, h)
		}
		if h.memory == 0 || h.memory > maxMemory || h.passes == 0 || h.passes > maxPasses || h.lanes == 0 || h.lanes > maxLanes || len(h.key) == 0 || len(h.key) > 64 {
			t.Errorf("%q asks for too much", s)
		}
	})
}

func TestClean(t *testing.T) {
	f := func(s string, most int, want string) {
		t.Helper()
		if got := clean(s, most); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f("", 0, "")
	f("abc", 3, "abc")
	f("abc", 2, "ab")
	f("aö", 2, "a")
	f("aö", 3, "aö")
	f("a\x00b\xffc", 100, "a�b�c")
	f("😀", 3, "")
}
