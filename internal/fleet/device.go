// Package fleet holds the words of Signalbox: devices, device models and the
// typed errors. It imports the standard library only and everything may import it.
package fleet

import (
	"crypto/rand"
	"encoding/base32"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"
)

// RotationState is the state of a device's credential rotation as it appears
// on the wire.
type RotationState string

// The rotation states.
const (
	RotationOK      RotationState = "OK"
	RotationQueued  RotationState = "QUEUED"
	RotationPending RotationState = "PENDING"
	RotationTimeout RotationState = "TIMEOUT"
)

// Model is a device model: the type of hardware and firmware its devices share.
type Model struct {
	ID              int64
	Code            string  // 1..50 of [a-z0-9_], unique, never changes
	Name            string  // 1..255
	FirmwareVersion *string // nil until a firmware exists
	ConfigSchema    *string // JSON Schema that its devices' configs must satisfy; nil accepts any JSON
	DeviceCount     int
	CreatedAt       time.Time // UTC
	UpdatedAt       time.Time // UTC
}

// Device is one device of the fleet.
type Device struct {
	ID     int64
	Key    string // 8 characters, unique, never changes
	Model  Model  // ID, Code, Name and FirmwareVersion are always set
	Active bool   // takes part in fleet-wide rotation
	Config string // the JSON text exactly as it was submitted

	// Taken from Config: deviceName, deviceEntityId, enableOTA, tags.
	Name      *string
	EntityID  *string // what the device calls itself in its log lines; not unique
	EnableOTA *bool
	Tags      Tags

	RevokedAt *time.Time // since when its credential is withdrawn; nil: it is good

	Rotation                RotationState
	SecretCreatedAt         *time.Time
	LastRotationAttemptAt   *time.Time
	LastRotationCompletedAt *time.Time
	CreatedAt               time.Time // UTC
	UpdatedAt               time.Time // UTC
}

// ClientID is the name under which the device authenticates.
func (d *Device) ClientID() string { return ClientID(d.Model.Code, d.Key) }

// Ref returns what the log path needs to know of the device.
func (d *Device) Ref() DeviceRef {
	r := DeviceRef{
		ID: d.ID, Key: d.Key, ClientID: d.ClientID(), ModelID: d.Model.ID, ModelCode: d.Model.Code,
		Tags: d.Tags, Revoked: d.RevokedAt != nil,
	}
	if d.EntityID != nil {
		r.EntityID = *d.EntityID
	}
	if d.Name != nil {
		r.Name = *d.Name
	}
	return r
}

// DeviceRef names a device everywhere outside the registry. It is a value and
// never changes; a changed device has a new one.
type DeviceRef struct {
	ID        int64
	Key       string
	ClientID  string
	EntityID  string // "" when the config has none
	Name      string // "" when the config has none
	ModelID   int64
	ModelCode string
	Tags      Tags
	Revoked   bool // its credential is withdrawn
}

// Tags are the words that a device is marked with in its config. They are kept
// in one text, sorted and each on a line of its own, so that a DeviceRef can be
// compared.
type Tags string

// NewTags returns the words as Tags, without those that are empty or twice.
func NewTags(words ...string) Tags {
	words = slices.DeleteFunc(slices.Sorted(slices.Values(words)), func(w string) bool { return w == "" })
	return Tags(strings.Join(slices.Compact(words), "\n"))
}

// All returns the words, sorted.
func (t Tags) All() iter.Seq[string] {
	if t == "" {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(string(t), "\n")
}

// DeviceClaims is what a device's token proves: under which name it was
// given out, when, and with which credential.
type DeviceClaims struct {
	ClientID   string    // as of fleet.ClientID; never ""
	Credential string    // names the secret or key that the token was obtained with; "" if the provider does not say
	IssuedAt   time.Time // zero if the token does not say
	Expires    time.Time // never zero
}

// ClientID returns the OAuth2 client id and MQTT client id of a device:
// iotdevice-<model code>-<key>.
func ClientID(modelCode, key string) string { return "iotdevice-" + modelCode + "-" + key }

var clientID = regexp.MustCompile(`^iotdevice-([a-z0-9_]+)-([a-z0-9]{8})$`)

// ParseClientID splits a client id into model code and device key.
func ParseClientID(s string) (modelCode, key string, ok bool) {
	m := clientID.FindStringSubmatch(s)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// NewKey returns a fresh device key: eight characters of a-z2-7, the base32
// (RFC 4648, section 6) of five random bytes. Uniqueness is the store's to check.
func NewKey() string {
	var b [5]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
