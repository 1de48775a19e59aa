package registry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// The sums are of what Espressif's own tool writes for these values.
func TestNVS(t *testing.T) {
	values := []registry.NVSString{
		{"device_key", "abc12345"}, {"client_id", "iotdevice-thermostat-abc12345"}, {"client_secret", "secret123"},
		{"token_url", "https://auth.example.com/realms/iot/protocol/openid-connect/token"}, {"base_url", "http://localhost:3200"},
		{"mqtt_url", "mqtt://mqtt.example.com:1883"}, {"wifi_ssid", "TestNetwork"}, {"wifi_password", "test-wifi-password"},
	}
	f := func(size int, want string) {
		t.Helper()
		got, err := registry.NVS("prov", values, size)
		if sum := sha256.Sum256(got); err != nil || len(got) != size || hex.EncodeToString(sum[:]) != want {
			t.Errorf("%#x: %d bytes with sum %x, %v", size, len(got), sum, err)
		}
	}
	f(0x3000, "713d701d3f5a1e32d1817bec53bcf267b34da60f43ae35000b2b9546c4bb2c6f")
	f(0x4000, "e13c31fde36217ea30786d1f718c43832c2520fd4c2bc1b6f044487257dd2783")
	f(0x6000, "88f5ac2b9b6d0c3443531ca9b74a763e0fb7d4cd13984142382f19f910fd653c")
	blob, _ := registry.NVS("prov", values, 0x3000)
	if head := hex.EncodeToString(blob[:32]); head != "feffffff00000000feffffffffffffffffffffffffffffffffffffff842dbab9" {
		t.Errorf("header %s", head)
	}
	if entry := hex.EncodeToString(blob[3*32 : 4*32]); entry != "012102ff93c738bf6465766963655f6b65790000000000000900fffffd7c7deb" {
		t.Errorf("entry 1 %s", entry)
	}
}

func TestNVSRefuses(t *testing.T) {
	f := func(size int, value, say string) {
		t.Helper()
		_, err := registry.NVS("prov", []registry.NVSString{{"wifi_ssid", value}}, size)
		if fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), say) {
			t.Errorf("%d bytes, a value of %d: %v", size, len(value), err)
		}
	}
	f(0, "x", "partition_size")
	f(0x2000, "x", "partition_size")
	f(0x3001, "x", "partition_size")
	f(-0x3000, "x", "partition_size")
	f(0x3000, "", "'wifi_ssid' cannot be empty")
	f(0x3000, strings.Repeat("x", 4000), "too long")
}

// More than a page holds goes on in the next one, and what is too much for the
// partition is refused.
func TestNVSPages(t *testing.T) {
	var values []registry.NVSString
	for i := range 40 {
		values = append(values, registry.NVSString{Key: fmt.Sprintf("key%d", i), Value: strings.Repeat("v", 300)})
	}
	if _, err := registry.NVS("prov", values, 0x3000); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("14 kB in three pages: %v", err)
	}
	blob, err := registry.NVS("prov", values, 0x8000)
	if err != nil {
		t.Fatal(err)
	}
	for page, state := range []byte{0xFC, 0xFC, 0xFC, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF} {
		if got := blob[page*4096]; got != state {
			t.Errorf("page %d has state %x, want %x", page, got, state)
		}
	}
	for _, v := range values {
		if n := bytes.Count(blob, append([]byte(v.Key), 0)); n != 1 {
			t.Errorf("%s is there %d times", v.Key, n)
		}
	}
	if n := bytes.Count(blob, []byte(values[0].Value+"\x00")); n != len(values) {
		t.Errorf("%d values, want %d", n, len(values))
	}
}
