package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// packageOf returns a device and what it is to be provisioned with now.
func (s *Server) packageOf(ctx context.Context, id int64) (fleet.Device, registry.Package, error) {
	d, secret, err := s.packageSecret(ctx, id)
	return d, s.credentialsOf(d, secret), err
}

// partitionSize reads the parameter partition_size, in bytes. Errors: violations.
func partitionSize(r *http.Request) (int, error) {
	f := newForm(nil)
	for name, values := range r.URL.Query() {
		f.fields[name] = values[0]
	}
	n := f.integer("partition_size")
	if len(f.faults) == 0 && n < registry.NVSMinSize {
		f.fault("greater_than_equal", []any{"partition_size"}, fmt.Sprintf("Input should be greater than or equal to %d", registry.NVSMinSize), f.fields["partition_size"])
	}
	if len(f.faults) == 0 && n > registry.NVSMaxSize {
		f.fault("less_than_equal", []any{"partition_size"}, fmt.Sprintf("Input should be less than or equal to %d", registry.NVSMaxSize), f.fields["partition_size"])
	}
	return int(n), f.err()
}

// nvsOf returns the partition that a request asks for, and the device that it is of.
func (s *Server) nvsOf(r *http.Request) (fleet.Device, []byte, error) {
	id, err := s.scopedID(r)
	if err != nil {
		return fleet.Device{}, nil, err
	}
	audited(r.Context()).detail("format", registry.FormatNVS)
	size, err := partitionSize(r)
	if err != nil {
		return fleet.Device{}, nil, err
	}
	d, p, err := s.packageOf(r.Context(), id)
	if err != nil {
		return fleet.Device{}, nil, err
	}
	data, err := p.NVS(size)
	return d, data, err
}

// showProvisioning answers with the partition that a device is flashed with.
func (s *Server) showProvisioning(w http.ResponseWriter, r *http.Request) error {
	_, data, err := s.nvsOf(r)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, struct {
		Size int    `json:"size"`
		Data []byte `json:"data"` // base64
	}{len(data), data})
	return nil
}

// downloadProvisioning answers with the same as a file.
func (s *Server) downloadProvisioning(w http.ResponseWriter, r *http.Request) error {
	d, data, err := s.nvsOf(r)
	if err != nil {
		return err
	}
	download(w, "application/octet-stream", d.Key+"-nvs.bin", data)
	return nil
}

// qrPixels is the size of a module of a QR code in a PNG.
const qrPixels = 8

// showProvisioningQR answers with the package as a QR code.
func (s *Server) showProvisioningQR(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	audited(r.Context()).detail("format", registry.FormatQR)
	format := cmp.Or(r.URL.Query().Get("format"), "svg")
	if format != "svg" && format != "png" {
		return fleet.E(fleet.Invalid, nil, "format must be svg or png")
	}
	_, p, err := s.packageOf(r.Context(), id)
	if err != nil {
		return err
	}
	code, err := p.QR()
	if err != nil {
		return err
	}
	kind, image := "image/svg+xml", code.SVG()
	if format == "png" {
		kind = "image/png"
		if image, err = code.PNG(qrPixels); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	_, _ = w.Write(image) // an error means that the client has gone
	return nil
}

// download sends a file that is not to be kept on the way.
func download(w http.ResponseWriter, kind, name string, data []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(data) // an error means that the client has gone
}

// provisioningLink is a link on the wire. URL is there only when it is made.
type provisioningLink struct {
	ID            int64   `json:"id"`
	URL           string  `json:"url,omitempty"`
	Format        string  `json:"format"`
	PartitionSize *int    `json:"partition_size"`
	CreatedBy     string  `json:"created_by"`
	CreatedAt     string  `json:"created_at"`
	ExpiresAt     string  `json:"expires_at"`
	UsedAt        *string `json:"used_at"`
	UsedFrom      *string `json:"used_from"`
}

func linkOnWire(l registry.Link) provisioningLink {
	out := provisioningLink{
		ID: l.ID, Format: l.Format, CreatedBy: l.CreatedBy, CreatedAt: timestamp(l.CreatedAt), ExpiresAt: timestamp(l.ExpiresAt),
		UsedFrom: textOrNull(l.UsedFrom),
	}
	if l.PartitionSize != 0 {
		out.PartitionSize = &l.PartitionSize
	}
	if !l.UsedAt.IsZero() {
		out.UsedAt = timestampOrNull(&l.UsedAt)
	}
	return out
}

var errNoLinks = fleet.ErrOperation("use links", "this server has no store for them")

// usualLinkLifetime is how long a link is good if nobody says it.
const usualLinkLifetime = time.Hour

func (s *Server) createLink(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	who, _ := access.FromContext(r.Context())
	n := registry.NewLink{Device: id, Format: f.text("format", rule{}), Lifetime: usualLinkLifetime, CreatedBy: actor(r)}
	if f.fields["partition_size"] != nil {
		n.PartitionSize = int(min(f.integer("partition_size"), registry.NVSMaxSize+1))
	}
	if f.fields["expires_in_seconds"] != nil {
		const most = int64(registry.MaxLinkLifetime/time.Second) + 1 // so that it does not overflow
		n.Lifetime = time.Duration(min(max(f.integer("expires_in_seconds"), 0), most)) * time.Second
	}
	if err := f.err(); err != nil {
		return err
	}
	if s.links == nil {
		return errNoLinks
	}
	who.Issued, who.Expires = time.Now(), time.Time{}
	maker, err := json.Marshal(who)
	if err != nil {
		return err
	}
	n.Maker = string(maker)
	token, link, err := s.links.Create(r.Context(), n)
	if err != nil {
		return err
	}
	e := audited(r.Context())
	e.detail("link", link.ID)
	e.detail("format", link.Format)
	e.detail("expires_at", timestamp(link.ExpiresAt))
	out := linkOnWire(link)
	base := s.identity.BaseURL
	if base == "" {
		base = "http://" + r.Host
	}
	out.URL = base + "/p/" + token
	s.write(w, r, http.StatusCreated, out)
	return nil
}

func (s *Server) listLinks(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	if s.links == nil {
		return errNoLinks
	}
	links, err := s.links.Of(r.Context(), id)
	if err != nil {
		return err
	}
	list := make([]provisioningLink, len(links))
	for i, l := range links {
		list[i] = linkOnWire(l)
	}
	s.write(w, r, http.StatusOK, struct {
		Links []provisioningLink `json:"links"`
		Count int                `json:"count"`
	}{list, len(list)})
	return nil
}

func (s *Server) deleteLink(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	link, err := strconv.ParseInt(r.PathValue("lid"), 10, 64)
	if err != nil {
		return errNoRoute
	}
	if s.links == nil {
		return errNoLinks
	}
	audited(r.Context()).detail("link", link)
	if err := s.links.Delete(r.Context(), id, link); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// linkRoute is where links lead. The secret is in the path: it must not come into
// a log.
const linkRoute = "/p/{token}"

// goodLink returns the link that a request came by, and its device. It is not
// good any more if its maker could not make it now, or the device is revoked or gone:
// registry.ErrNoLink, as for a link that never was.
func (s *Server) goodLink(r *http.Request) (registry.Link, fleet.DeviceRef, error) {
	if s.links == nil {
		return registry.Link{}, fleet.DeviceRef{}, registry.ErrNoLink
	}
	link, err := s.links.Find(r.Context(), r.PathValue("token"))
	d, there := s.registry.Directory().ByID(link.Device)
	if link.ID != 0 {
		e := audited(r.Context())
		e.by(access.Principal{Kind: access.Link, Subject: "link:" + strconv.FormatInt(link.ID, 10), Name: "link of " + link.CreatedBy})
		e.about("device", link.Device, cmp.Or(d.Name, d.EntityID, d.Key))
		e.detail("link", link.ID)
		e.detail("format", link.Format)
	}
	if err != nil {
		return link, d, err
	}
	var maker access.Principal
	if json.Unmarshal([]byte(link.Maker), &maker) != nil || !there || d.Revoked {
		return link, d, registry.ErrNoLink
	}
	if maker, err = s.identity.acting(maker); err != nil || editor.check(maker) != nil || !maker.May(d) {
		return link, d, registry.ErrNoLink
	}
	return link, d, nil
}

// tryLink is goodLink for who does not guess too fast.
func (s *Server) tryLink(r *http.Request) (registry.Link, fleet.DeviceRef, error) {
	address := s.identity.Address(r)
	if err := s.linkGuesses.Begin(address, time.Now()); err != nil {
		return registry.Link{}, fleet.DeviceRef{}, err
	}
	link, d, err := s.goodLink(r)
	if !errors.Is(err, registry.ErrNoLink) {
		s.linkGuesses.Undo(address, time.Now())
	}
	return link, d, err
}

// showLink says what a link leads to. The secret comes by POST only: programs that
// look at what is behind a link, to show a preview say, do not use it up.
func (s *Server) showLink(w http.ResponseWriter, r *http.Request) error {
	link, d, err := s.tryLink(r)
	if err != nil {
		return err
	}
	if wantsJSON(r) {
		s.write(w, r, http.StatusOK, struct {
			DeviceKey     string `json:"device_key"`
			Format        string `json:"format"`
			ExpiresAt     string `json:"expires_at"`
			PartitionSize *int   `json:"partition_size"`
		}{d.Key, link.Format, timestamp(link.ExpiresAt), linkOnWire(link).PartitionSize})
		return nil
	}
	s.sendLinkPage(w, http.StatusOK, linkPage{Title: "Provisioning of a device", Device: cmp.Or(d.Name, d.EntityID, d.Key), Key: d.Key, Format: link.Format,
		Size: link.PartitionSize, Until: link.ExpiresAt.UTC().Format("2 January 2006, 15:04 MST")})
	return nil
}

// useLink gives out what a link leads to, once. Everything that may fail happens
// before it is used up.
func (s *Server) useLink(w http.ResponseWriter, r *http.Request) error {
	link, d, err := s.tryLink(r)
	if err != nil {
		return err
	}
	_, p, err := s.packageOf(r.Context(), d.ID)
	if err != nil {
		return err
	}
	var send func()
	switch link.Format {
	case registry.FormatNVS:
		data, err := p.NVS(link.PartitionSize)
		if err != nil {
			return err
		}
		send = func() { download(w, "application/octet-stream", d.Key+"-nvs.bin", data) }
	case registry.FormatQR:
		code, err := p.QR()
		if err != nil {
			return err
		}
		image, err := code.PNG(qrPixels)
		if err != nil {
			return err
		}
		send = func() {
			if wantsHTML(r) {
				s.sendLinkPage(w, http.StatusOK, linkPage{Title: "Provisioning of a device", Device: cmp.Or(d.Name, d.EntityID, d.Key), Key: d.Key, QR: code.SVG()})
				return
			}
			download(w, "image/png", d.Key+".png", image)
		}
	default:
		send = func() { download(w, "application/json", d.Key+".json", append(p.JSON(), '\n')) }
	}
	if err := s.links.Use(r.Context(), link.ID, s.identity.Address(r)); err != nil {
		return err
	}
	send()
	return nil
}

// acting returns somebody as they are now, though the session is over.
func (i *identity) acting(p access.Principal) (access.Principal, error) {
	if p.Kind == access.Nobody || i.Accounts == nil {
		return i.check(p)
	}
	return i.Accounts.Acting(p)
}

func wantsHTML(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

func wantsJSON(r *http.Request) bool {
	return !wantsHTML(r) && strings.Contains(r.Header.Get("Accept"), "application/json")
}

// refuseLink answers who came by a link with a page, if that is what they want.
func (s *Server) refuseLink(w http.ResponseWriter, r *http.Request, status int, text string) bool {
	if r.Pattern == "" || !strings.HasSuffix(r.Pattern, linkRoute) || !wantsHTML(r) {
		return false
	}
	s.sendLinkPage(w, status, linkPage{Title: "This does not work", Problem: text})
	return true
}

func (s *Server) sendLinkPage(w http.ResponseWriter, status int, p linkPage) {
	var b bytes.Buffer
	if err := linkTemplate.Execute(&b, p); err != nil {
		panic(err) // the template is ours, and so is what it is given
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the address is the secret
	h.Set("X-Robots-Tag", "noindex")
	h.Set("Content-Security-Policy", linkPolicy)
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // an error means that the client has gone
}
