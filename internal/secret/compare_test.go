package secret_test

import (
	"net/http"
	"testing"

	"signalbox/internal/secret"
)

func TestEqual(t *testing.T) {
	f := func(given, want string, equal bool) {
		t.Helper()
		if secret.Equal(given, want) != equal {
			t.Errorf("Equal(%q, %q) is not %v", given, want, equal)
		}
	}
	f("a", "a", true)
	f("a", "b", false)
	f("a", "ab", false)
	f("ab", "a", false)
	f("", "a", false)
	f("", "", false) // no secret is no way in
	f("a", "", false)
}

func TestBearer(t *testing.T) {
	f := func(header, want string) {
		t.Helper()
		h := http.Header{}
		if header != "" {
			h.Set("Authorization", header)
		}
		if got := secret.Bearer(h); got != want {
			t.Errorf("%q: got %q, want %q", header, got, want)
		}
	}
	f("", "")
	f("Bearer", "")
	f("Bearer ", "")
	f("Bearer abc", "abc")
	f("bearer  abc ", "abc")
	f("Basic abc", "")
	f("abc", "")
}
