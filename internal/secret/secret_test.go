package secret_test

import (
	"errors"
	"strings"
	"testing"

	"signalbox/internal/secret"
)

func box(t testing.TB, key, purpose string) *secret.Box {
	t.Helper()
	b, err := secret.NewBox(key, purpose)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpen(t *testing.T) {
	b := box(t, "a key of some length", "test")
	sealed := b.Seal("wifi password", "device 7")
	if strings.Contains(sealed, "wifi") {
		t.Errorf("the sealed text %q shows what it holds", sealed)
	}
	if again := b.Seal("wifi password", "device 7"); again == sealed {
		t.Error("the same text was sealed twice the same")
	}
	f := func(b *secret.Box, sealed, about, want string, wrong error) {
		t.Helper()
		got, err := b.Open(sealed, about)
		if got != want || !errors.Is(err, wrong) {
			t.Errorf("open %q about %q: %q, %v; want %q, %v", sealed, about, got, err, want, wrong)
		}
	}
	f(b, sealed, "device 7", "wifi password", nil)
	f(box(t, "a key of some length", "test"), sealed, "device 7", "wifi password", nil)
	f(b, sealed, "device 8", "", secret.ErrDamaged)
	f(b, sealed[:len(sealed)-2], "device 7", "", secret.ErrDamaged)
	f(b, "", "device 7", "", secret.ErrDamaged)
	f(b, "v2"+sealed[2:], "device 7", "", secret.ErrDamaged)
	f(box(t, "another key of length", "test"), sealed, "device 7", "", secret.ErrKey)
	f(box(t, "a key of some length", "another"), sealed, "device 7", "", secret.ErrKey)
	if _, err := secret.NewBox("", "test"); err == nil {
		t.Error("a box without a key")
	}
}

func FuzzOpen(f *testing.F) {
	b := box(f, "a key of some length", "fuzz")
	f.Add(b.Seal("text", "about"), "about")
	f.Add("v1..", "")
	f.Fuzz(func(t *testing.T, sealed, about string) {
		if text, err := b.Open(sealed, about); err == nil && text != "text" {
			t.Errorf("opened %q, which nobody sealed", sealed)
		}
	})
}
