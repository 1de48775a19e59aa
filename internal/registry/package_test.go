package registry_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image"
	"image/color"
	"image/png"
	"io"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

func wholePackage() registry.Package {
	return registry.Package{
		DeviceKey: "abc12345", ClientID: "iotdevice-thermostat-abc12345", ClientSecret: "s3cr&t<ü>",
		TokenURL: new("https://auth.example.com/realms/iot/protocol/openid-connect/token?a=b&c=d"), BaseURL: new("http://localhost:3200"),
		MQTTURL: new("mqtt://mqtt.example.com:1883"), WiFiSSID: new("Test \"Network\""), WiFiPassword: new("test-wifi-password"),
	}
}

// readQR reads a QR code as another program does.
func readQR(t *testing.T, img image.Image) string {
	t.Helper()
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_PURE_BARCODE: true, gozxing.DecodeHintType_CHARACTER_SET: "UTF-8"})
	if err != nil {
		t.Fatal(err)
	}
	return result.GetText()
}

// enlarge draws modules as a picture.
func enlarge(n int, dark func(x, y int) bool) image.Image {
	const scale = 4
	img := image.NewGray(image.Rect(0, 0, n*scale, n*scale))
	for y := range n * scale {
		for x := range n * scale {
			if !dark(x/scale, y/scale) {
				img.SetGray(x, y, color.Gray{Y: 255})
			}
		}
	}
	return img
}

// Each form of the code is read back by a reader that is not of the library that
// made it.
func TestQR(t *testing.T) {
	p := wholePackage()
	want := string(p.JSON())
	if strings.Contains(want, "\n") || strings.Contains(want, `\u0026`) {
		t.Errorf("not compact: %s", want)
	}
	var back registry.Package
	if err := json.Unmarshal([]byte(want), &back); err != nil || *back.TokenURL != *p.TokenURL || back.ClientSecret != p.ClientSecret {
		t.Errorf("%v, %v", back, err)
	}
	code, err := p.QR()
	if err != nil {
		t.Fatal(err)
	}
	file, err := code.PNG(3)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if got := readQR(t, img); got != want {
		t.Errorf("PNG: %s", got)
	}

	lines := strings.Split(strings.TrimSuffix(code.Terminal(), "\n"), "\n")
	var rows [][]rune
	for _, line := range lines {
		_, line, _ = strings.Cut(line, "m")
		rows = append(rows, []rune(strings.TrimSuffix(line, "\x1b[0m")))
	}
	if len(rows[0]) != code.Size() {
		t.Fatalf("%d characters a line for %d modules", len(rows[0]), code.Size())
	}
	got := readQR(t, enlarge(code.Size(), func(x, y int) bool {
		c := rows[y/2][x]
		return c == '█' || y%2 == 0 && c == '▀' || y%2 == 1 && c == '▄'
	}))
	if got != want {
		t.Errorf("terminal: %s", got)
	}

	if got := readQR(t, enlarge(code.Size(), darkOfSVG(t, code.SVG()))); got != want {
		t.Errorf("SVG: %s", got)
	}
}

// darkOfSVG reads the path of an SVG that QR.SVG draws, as strictly as XML asks.
func darkOfSVG(t *testing.T, svg []byte) func(x, y int) bool {
	t.Helper()
	dark := map[[2]int]bool{}
	dec := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "path" || start.Attr[0].Value != "#000" {
			continue
		}
		for run := range strings.SplitSeq(strings.TrimPrefix(start.Attr[1].Value, "M"), "M") {
			var x, y, n, back int
			if _, err := sscan(run, &x, &y, &n, &back); err != nil || n != back {
				t.Fatalf("%q: %v", run, err)
			}
			for i := range n {
				dark[[2]int{x + i, y}] = true
			}
		}
	}
	return func(x, y int) bool { return dark[[2]int{x, y}] }
}

func TestQRBounds(t *testing.T) {
	f := func(n int, fits bool) {
		t.Helper()
		_, err := registry.NewQR(strings.Repeat("x", n))
		if (err == nil) != fits || err != nil && fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	f(1, true)
	f(2953, true) // ISO/IEC 18004, table 7, version 40-L
	f(2954, false)
	p := wholePackage()
	p.WiFiPassword = new(strings.Repeat("x", 3000))
	if _, err := p.QR(); fleet.KindOf(err) != fleet.Invalid {
		t.Error(err)
	}
}

func TestPackageNVS(t *testing.T) {
	if data, err := wholePackage().NVS(0x4000); err != nil || len(data) != 0x4000 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	f := func(change func(*registry.Package), size int, want string) {
		t.Helper()
		p := wholePackage()
		change(&p)
		if _, err := p.NVS(size); fleet.KindOf(err) != fleet.Invalid || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	f(func(p *registry.Package) { p.MQTTURL = nil }, 0x4000, "Provisioning field 'mqtt_url' is missing")
	f(func(p *registry.Package) { p.WiFiSSID = new("") }, 0x4000, "Provisioning field 'wifi_ssid' cannot be empty")
	f(func(p *registry.Package) { p.WiFiSSID = new(" ") }, 0x4000, "Provisioning field 'wifi_ssid' cannot be empty")
	f(func(p *registry.Package) { p.WiFiPassword = new("a\x00b") }, 0x4000, "Provisioning field 'wifi_password' cannot have a NUL character")
	f(func(*registry.Package) {}, 17<<20, "partition_size must be at most 16777216")
}
