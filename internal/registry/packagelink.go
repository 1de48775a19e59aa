package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"slices"
	"time"

	"signalbox/internal/fleet"
)

// Bounds of links.
const (
	MinLinkLifetime = time.Minute
	MaxLinkLifetime = 7 * 24 * time.Hour
	MaxOpenLinks    = 20 // of one device

	keepLinks  = 24 * time.Hour // how long one that is over is shown
	purgeLinks = time.Hour      // how often those are looked for that are not
)

// The formats of a package.
const (
	FormatJSON = "json"
	FormatNVS  = "nvs"
	FormatQR   = "qr"
)

// Link gives the package of a device to who has it, once.
type Link struct {
	ID            int64
	Device        int64
	Hash          string // SHA-256 of what is secret in it, in hex
	Format        string // FormatJSON, FormatNVS or FormatQR
	PartitionSize int    // bytes; 0 unless it is NVS
	CreatedBy     string // for people
	Maker         string // whose rights it has; what is in it is the caller's
	CreatedAt     time.Time
	ExpiresAt     time.Time
	UsedAt        time.Time // zero: it was not
	UsedFrom      string    // address of who used it
}

// LinkStore keeps links. Its errors are those of Store.
type LinkStore interface {
	// InsertLink stores a link under an id never used before, which it returns;
	// l.ID is ignored, and it is not used. If the device has most links by then that
	// are neither used nor over at l.CreatedAt, that is fleet.TooMany; if there is no
	// such device, fleet.NotFound.
	InsertLink(ctx context.Context, l Link, most int) (int64, error)
	// Links returns the links of a device.
	Links(ctx context.Context, device int64) ([]Link, error)
	// LinkByHash returns a link.
	LinkByHash(ctx context.Context, hash string) (Link, error)
	// UseLink notes that a link was used, if it was not used before and is not
	// over at that time. Otherwise, or if there is no such link, it is fleet.NotFound: of
	// any number who try at once one is let through.
	UseLink(ctx context.Context, id int64, at time.Time, from string) error
	// DeleteLink removes a link of a device.
	DeleteLink(ctx context.Context, device, id int64) error
	// DeleteOldLinks removes those that ended by then.
	DeleteOldLinks(ctx context.Context, until time.Time) error
}

// Links makes links and has each of them used once. Its methods may be called by
// any number of goroutines.
type Links struct {
	store LinkStore
	log   *slog.Logger
	now   func() time.Time
}

// NewLinks returns the links in a store. now is nil for time.Now.
func NewLinks(store LinkStore, log *slog.Logger, now func() time.Time) *Links {
	if now == nil {
		now = time.Now
	}
	return &Links{store, log, func() time.Time { return now().UTC().Truncate(time.Microsecond) }}
}

// NewLink is what a link is made of.
type NewLink struct {
	Device           int64
	Format           string
	PartitionSize    int           // bytes, of NVS
	Lifetime         time.Duration // MinLinkLifetime to MaxLinkLifetime
	CreatedBy, Maker string        // see Link
}

// Create makes a link. token is what is secret in it, and is kept nowhere. Errors:
// fleet.Invalid, fleet.NotFound for the device, fleet.TooMany when it has MaxOpenLinks.
func (l *Links) Create(ctx context.Context, n NewLink) (token string, link Link, err error) {
	switch {
	case n.Format != FormatJSON && n.Format != FormatNVS && n.Format != FormatQR:
		return "", link, fleet.E(fleet.Invalid, nil, "format must be json, nvs or qr")
	case n.Format == FormatNVS && (n.PartitionSize < NVSMinSize || n.PartitionSize > NVSMaxSize || n.PartitionSize%NVSStep != 0):
		return "", link, fleet.E(fleet.Invalid, nil, "partition_size must be a multiple of %d from %d to %d", NVSStep, NVSMinSize, NVSMaxSize)
	case n.Lifetime < MinLinkLifetime || n.Lifetime > MaxLinkLifetime:
		return "", link, fleet.E(fleet.Invalid, nil, "A link is good for %d to %d seconds", int(MinLinkLifetime.Seconds()), int(MaxLinkLifetime.Seconds()))
	}
	if n.Format != FormatNVS {
		n.PartitionSize = 0
	}
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	token = base64.RawURLEncoding.EncodeToString(b[:])
	now := l.now()
	link = Link{
		Device: n.Device, Hash: hashOfLink(token), Format: n.Format, PartitionSize: n.PartitionSize, CreatedBy: n.CreatedBy, Maker: n.Maker,
		CreatedAt: now, ExpiresAt: now.Add(n.Lifetime),
	}
	if link.ID, err = l.store.InsertLink(ctx, link, MaxOpenLinks); err != nil {
		return "", Link{}, err
	}
	return token, link, nil
}

// Of returns the links of a device, also those that were used or ended of late,
// the newest first.
func (l *Links) Of(ctx context.Context, device int64) ([]Link, error) {
	links, err := l.store.Links(ctx, device)
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(b.ID, a.ID) })
	return links, err
}

// ErrNoLink is the error for a link that is not good, whatever the reason: who
// has none learns nothing from it.
var ErrNoLink = fleet.E(fleet.NotFound, nil, "This link is not valid: it was used, has expired, or never was")

// Find returns the link with that token, with ErrNoLink if it was used or is over.
func (l *Links) Find(ctx context.Context, token string) (Link, error) {
	link, err := l.store.LinkByHash(ctx, hashOfLink(token))
	switch {
	case err != nil && fleet.KindOf(err) == fleet.NotFound:
		return Link{}, ErrNoLink
	case err != nil:
		return Link{}, err
	case !link.UsedAt.IsZero() || !l.now().Before(link.ExpiresAt):
		return link, ErrNoLink
	}
	return link, nil
}

// Use notes that a link was used, by who has that address. ErrNoLink if somebody was
// faster, or it is over.
func (l *Links) Use(ctx context.Context, id int64, from string) error {
	err := l.store.UseLink(ctx, id, l.now(), from)
	if err != nil && fleet.KindOf(err) == fleet.NotFound {
		return ErrNoLink
	}
	return err
}

// Delete removes a link of a device. Errors: fleet.NotFound.
func (l *Links) Delete(ctx context.Context, device, id int64) error {
	return l.store.DeleteLink(ctx, device, id)
}

// Run removes links that were over a day ago, until ctx ends. It returns nil then.
func (l *Links) Run(ctx context.Context) error {
	tick := time.NewTicker(purgeLinks)
	defer tick.Stop()
	for {
		if err := l.store.DeleteOldLinks(ctx, l.now().Add(-keepLinks)); err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "links to the credentials of devices that are over could not be deleted", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// hashOfLink returns what a link is looked up by. How long that takes says
// nothing about a token: who guesses cannot choose how much of a hash is right.
func hashOfLink(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
