package web

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
)

// linkPage is what the page behind a link says.
type linkPage struct {
	Title, Device, Key, Format, Until, Problem string
	Size                                       int
	QR                                         []byte // SVG of registry.QR; nil: not yet, or never
}

// Picture returns the QR code as it stands in the page: of our own making, and
// nothing in it is text of anybody's.
func (p linkPage) Picture() template.HTML { return template.HTML(p.QR) } //nolint:gosec // see there

// linkStyle is the page's only style. It asks nothing of the server: who opens a
// link need not be let in to anything else.
const linkStyle = `:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1b1f24;--soft:#57606a;--line:#d0d7de;--do:#0b57d0}
@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#171b21;--text:#e6e9ee;--soft:#9aa4b2;--line:#2d333b;--do:#a8c7fa}}
*{box-sizing:border-box}body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1rem;background:var(--bg);color:var(--text);font:1rem/1.5 system-ui,sans-serif}
main{max-width:30rem;width:100%;padding:1.5rem;background:var(--card);border:1px solid var(--line);border-radius:12px}
h1{margin:0 0 .75rem;font-size:1.25rem}p{margin:.5rem 0}dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;margin:1rem 0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.soft{color:var(--soft);font-size:.875rem}button{font:inherit;font-weight:600;padding:.6rem 1.25rem;border:0;border-radius:8px;background:var(--do);color:var(--card);cursor:pointer}
button:focus-visible{outline:3px solid var(--text);outline-offset:2px}svg{display:block;width:100%;max-width:26rem;margin:1rem auto;height:auto}code{font:.875em ui-monospace,monospace}`

// linkPolicy lets the page do nothing but be seen and send its form.
var linkPolicy = func() string {
	sum := sha256.Sum256([]byte(linkStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
}()

var linkTemplate = template.Must(template.New("link").Funcs(template.FuncMap{"style": func() template.HTML { return "<style>" + linkStyle + "</style>" }}).
	Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex">
<title>{{.Title}} · Signalbox</title>
{{style}}
</head>
<body>
<main>
<h1>{{.Title}}</h1>
{{if .Problem}}<p role="alert">{{.Problem}}.</p>
<p class="soft">A link to the credentials of a device can be used once, and only for some time. Ask who sent it to you for a new one.</p>
{{else if .QR}}<p>This code is what <strong>{{.Device}}</strong> (<code>{{.Key}}</code>) is provisioned with.</p>
{{.Picture}}
<p class="soft">It is a secret, and the link is used up: this page cannot be shown again. Close it when the device has the code.</p>
{{else}}<p>This link gives you what a device needs to log in: its <strong>credentials</strong>. They are secret. It works <strong>once</strong>.</p>
<dl>
<dt>Device</dt><dd>{{.Device}}</dd>
<dt>Key</dt><dd><code>{{.Key}}</code></dd>
<dt>You get</dt><dd>{{if eq .Format "nvs"}}an NVS partition of {{.Size}} bytes, to be flashed{{else if eq .Format "qr"}}a QR code, on this page{{else}}a JSON file{{end}}</dd>
<dt>Good until</dt><dd>{{.Until}}</dd>
</dl>
<form method="post"><button>{{if eq .Format "qr"}}Show the code{{else}}Download{{end}}</button></form>
<p class="soft">Without a browser: <code>curl -X POST -o FILE</code> and the address of this page.</p>
{{end}}</main>
</body>
</html>
`))
