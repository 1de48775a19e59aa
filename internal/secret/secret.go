// Package secret encrypts what must be kept but not be readable where it is
// kept: client secrets, signing keys, the state of a login. It also tells whether
// somebody knows a secret.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Box seals and opens short texts with AES-256-GCM (NIST SP 800-38D) under a
// key that is derived from SECRET_KEY with HKDF-SHA256 (RFC 5869).
type Box struct {
	aead cipher.AEAD
	id   string // names the key, so that a text sealed with another is told from a damaged one
}

// The errors of Open.
var (
	ErrKey     = errors.New("sealed under another SECRET_KEY")
	ErrDamaged = errors.New("not a sealed text, or a damaged one")
)

// version is the form of a sealed text: version.key.nonce and ciphertext.
const version = "v1"

// NewBox returns a box for one purpose. What boxes of another key or another
// purpose sealed it cannot open.
func NewBox(key, purpose string) (*Box, error) {
	if key == "" {
		return nil, errors.New("a box needs a key")
	}
	derived, err := hkdf.Key(sha256.New, []byte(key), nil, "signalbox "+version+" "+purpose, 32+6)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Box{aead, base64.RawURLEncoding.EncodeToString(derived[32:])}, nil
}

// Seal returns text, sealed and printable. about must be given again to open
// it: it binds the sealed text to its place, such as the row that holds it.
func (b *Box) Seal(text, about string) string {
	sealed := b.aead.Seal(nil, nil, []byte(text), []byte(about))
	return version + "." + b.id + "." + base64.RawURLEncoding.EncodeToString(sealed)
}

// Open returns what Seal was given. Errors: ErrKey, ErrDamaged.
func (b *Box) Open(sealed, about string) (string, error) {
	v, rest, _ := strings.Cut(sealed, ".")
	id, text, ok := strings.Cut(rest, ".")
	if !ok || v != version {
		return "", ErrDamaged
	}
	if id != b.id {
		return "", ErrKey
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return "", ErrDamaged
	}
	plain, err := b.aead.Open(nil, nil, raw, []byte(about))
	if err != nil {
		return "", ErrDamaged
	}
	return string(plain), nil
}

// NewText returns 256 random bits as printable text, for a new secret.
func NewText() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}
