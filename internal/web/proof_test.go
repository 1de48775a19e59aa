package web

import (
	"strings"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

func testProofs(t testing.TB) *proofs {
	box, err := secret.NewBox("a key for tests only", "rotation proof")
	if err != nil {
		t.Fatal(err)
	}
	return newProofs(box, nil)
}

func TestNonce(t *testing.T) {
	p := testProofs(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 5e8, time.UTC)
	f := func(device int64, nonce string, at time.Time, result string, kind fleet.Kind) {
		t.Helper()
		got, err := p.take(device, nonce, at)
		if got != result || (result == "") != (err == nil) || err != nil && fleet.KindOf(err) != kind {
			t.Errorf("%.20s of %d at %s: %q, %v; want %q", nonce, device, at, got, err, result)
		}
	}
	one, expires := p.nonce(1, now)
	two, _ := p.nonce(1, now)
	if one == two || !expires.Equal(now.Truncate(time.Second).Add(nonceLife)) {
		t.Errorf("%s, %s, until %s", one, two, expires)
	}
	f(2, one, now, proofNonce, fleet.Invalid)
	f(1, one, expires, proofNonce, fleet.Invalid)
	f(1, one, expires.Add(-1), "", 0) // the tries before did not use it up
	f(1, one, expires.Add(-1), proofReplayed, fleet.Invalid)
	f(1, one, expires, proofNonce, fleet.Invalid)
	f(1, two, now, "", 0)
	p.giveBack(1, two)
	f(1, two, now, "", 0)
	f(1, "", now, proofNonce, fleet.Invalid)
	f(1, p.box.Seal("1 2", nonceAbout), now, proofNonce, fleet.Invalid)
	f(1, p.box.Seal("1 x y", nonceAbout), now, proofNonce, fleet.Invalid)
	f(1, p.box.Seal(strings.Repeat("1", 30)+" 2 y", nonceAbout), now, proofNonce, fleet.Invalid)
	f(1, p.box.Seal("1 9999999999 y", "something else"), now, proofNonce, fleet.Invalid)

	// What is remembered is bounded, and forgotten.
	for range maxProofsOf {
		n, _ := p.nonce(3, now)
		f(3, n, now, "", 0)
	}
	n, _ := p.nonce(3, now)
	f(3, n, now, proofLimited, fleet.TooMany)
	later := now.Add(nonceLife)
	n, _ = p.nonce(3, later)
	f(3, n, later, "", 0)
	if kept := len(p.used[3]); kept != 1 {
		t.Errorf("%d nonces are remembered", kept)
	}
	// A server with the same SECRET_KEY takes it as well.
	n, _ = p.nonce(4, now)
	if result, err := testProofs(t).take(4, n, now); err != nil {
		t.Error(result, err)
	}
}

func FuzzNonce(f *testing.F) {
	p := testProofs(f)
	now := time.Now()
	good, _ := p.nonce(1, now)
	f.Add(good)
	f.Add("v1.x.y")
	f.Add(p.box.Seal("1 2 3", nonceAbout))
	f.Fuzz(func(t *testing.T, text string) {
		if result, err := p.take(2, text, now); err == nil || result == "" {
			t.Errorf("%q is taken", text)
		}
	})
}
