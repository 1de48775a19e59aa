package registry

import (
	"errors"
	"fmt"
	"strings"

	goqr "github.com/piglig/go-qr"

	"signalbox/internal/fleet"
)

// quietZone is how many light modules a QR code has around it (ISO/IEC 18004,
// section 5.3.8): without them it is not found.
const quietZone = 4

// QR is a QR code.
type QR struct{ code *goqr.QrCode }

// QR returns the package as a QR code of its JSON, with as much redundancy as the
// smallest code that holds it has room for. One that fits in no code is
// fleet.Invalid.
func (p Package) QR() (QR, error) { return NewQR(string(p.JSON())) }

// NewQR returns text as a QR code. One that fits in no code is fleet.Invalid.
func NewQR(text string) (QR, error) {
	code, err := goqr.EncodeBinary([]byte(text), goqr.Low) // which takes a higher level where that costs nothing
	switch {
	case errors.Is(err, goqr.ErrDataTooLong):
		return QR{}, fleet.E(fleet.Invalid, err, "The provisioning data has %d bytes, which is too long for a QR code", len(text))
	case err != nil:
		return QR{}, fmt.Errorf("make a QR code: %w", err)
	}
	return QR{code}, nil
}

// Size returns how many modules the code has on each side, its light margin
// included.
func (q QR) Size() int { return q.code.Size() + 2*quietZone }

// dark reports whether a module is dark. Around the code it is light.
func (q QR) dark(x, y int) bool {
	n := q.code.Size()
	x, y = x-quietZone, y-quietZone
	return x >= 0 && y >= 0 && x < n && y < n && q.code.Module(x, y)
}

// PNG returns the code as an image of scale pixels a module.
func (q QR) PNG(scale int) ([]byte, error) {
	b, err := q.code.ToPNGBytes(goqr.NewQrCodeImgConfig(scale, quietZone))
	if err != nil {
		return nil, fmt.Errorf("draw a QR code: %w", err)
	}
	return b, nil
}

// SVG returns the code as an image that takes the size of what it stands in. It
// has neither scripts nor styles and may stand in a page as it is.
func (q QR) SVG() []byte {
	n := q.Size()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges" role="img" aria-label="QR code">`, n, n)
	fmt.Fprintf(&b, `<path fill="#fff" d="M0 0h%dv%dh-%dz"/><path fill="#000" d="`, n, n, n)
	for y := range n {
		for x := 0; x < n; x++ {
			run := 0
			for x+run < n && q.dark(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x, y, run, run)
				x += run
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return []byte(b.String())
}

// Terminal returns the code for a terminal: two modules a character, black on
// white whatever the terminal's colours are.
func (q QR) Terminal() string {
	const colours, usual = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
	n := q.Size()
	var b strings.Builder
	for y := 0; y < n; y += 2 {
		b.WriteString(colours)
		for x := range n {
			switch upper, lower := q.dark(x, y), q.dark(x, y+1); {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString(usual + "\n")
	}
	return b.String()
}
