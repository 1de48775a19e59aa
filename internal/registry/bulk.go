package registry

import (
	"context"
	"regexp"

	"signalbox/internal/fleet"
)

// NewDevice is what a device is made of.
type NewDevice struct {
	Model  int64
	Config string // as of CreateDevice
	Active bool
	Key    string // of a device that has one already; "" for a fresh one
}

// deviceKey is what a device's key may be: NewKey makes fewer, and those of other
// systems are taken as they are.
var deviceKey = regexp.MustCompile(`^[a-z0-9]{8}$`)

// Create stores a new device, as CreateDevice does. One with a key takes over the
// client that the issuer may have for it already, with its secret. Errors are those
// of CreateDevice, and fleet.Exists for a key that another device has.
func (s *Service) Create(ctx context.Context, n NewDevice) (fleet.Device, error) {
	d, err := s.Draft(ctx, n)
	if err != nil {
		return fleet.Device{}, err
	}
	adopted := false // the client was there before the device
	if n.Key != "" && s.issuer != nil {
		status, err := s.issuer.Status(ctx, d.ClientID())
		if err != nil {
			return fleet.Device{}, atIssuer(ctx, "create device", err)
		}
		adopted = status.Exists
	}
	create := func(q Queries) (_ Change, err error) {
		if d.ID, err = q.InsertDevice(ctx, d); err != nil {
			return Change{}, err
		}
		switch {
		case adopted:
			// It stays marked as one that may be other than the device says: if the
			// removal of a device that had it before was under way, Run makes it anew.
			_, err = q.DeleteRemoval(ctx, d.ClientID())
		case s.issuer != nil:
			err = keep(ctx, q, &d)
		}
		return Change{Kind: Created, After: d.Ref()}, err
	}
	for attempt := 1; ; attempt++ {
		if n.Key == "" {
			d.Key = s.newKey()
		}
		// A key that is taken is known mostly; its client is not touched then.
		if _, taken := s.dir.ByKey(d.Key); s.issuer != nil && !taken {
			reserve := s.reserve
			if adopted { // whatever fails from here on, a device that is out there has its client
				reserve = func(ctx context.Context, d *fleet.Device) error {
					if err := s.ensure(ctx, clientOf(d)); err != nil {
						return atIssuer(ctx, "create device", err)
					}
					return nil
				}
			}
			if err := reserve(ctx, &d); err != nil {
				return fleet.Device{}, err
			}
		}
		ch, err := s.write(ctx, create)
		switch {
		case err == nil:
			s.warnShared(ctx, ch)
			if adopted {
				s.wakeUp()
			}
			return d, nil
		case fleet.KindOf(err) != fleet.Exists:
			return fleet.Device{}, err
		case n.Key != "":
			return fleet.Device{}, errKeyTaken(n.Key)
		case attempt == keyAttempts:
			// The caller named no key, so this is our fault and not theirs.
			return fleet.Device{}, fleet.E(fleet.Internal, err, "no free device key in %d attempts", keyAttempts)
		}
	}
}

// Draft returns the device that Create would store, without an id and, unless it
// is given, a key; or the error that Create would return for what is asked. It
// changes nothing, and does not ask the issuer.
func (s *Service) Draft(ctx context.Context, n NewDevice) (fleet.Device, error) {
	m, err := s.store.BareModel(ctx, n.Model)
	if err != nil {
		return fleet.Device{}, err
	}
	settings, err := readConfig(m, n.Config)
	if err != nil {
		return fleet.Device{}, err
	}
	if n.Key != "" {
		if !deviceKey.MatchString(n.Key) {
			return fleet.Device{}, fleet.E(fleet.Invalid, nil, "key must be 8 characters of a-z and 0-9")
		}
		if _, taken := s.dir.ByKey(n.Key); taken {
			return fleet.Device{}, errKeyTaken(n.Key)
		}
	}
	now := s.clock()
	d := fleet.Device{
		Key:             n.Key,
		Model:           modelOfDevice(m),
		Active:          n.Active,
		Config:          n.Config,
		Name:            settings.name,
		EntityID:        settings.entityID,
		EnableOTA:       settings.enableOTA,
		Tags:            settings.tags,
		Rotation:        fleet.RotationOK,
		SecretCreatedAt: &now,
		CreatedAt:       now,
		UpdatedAt:       now,
	}
	return d, allowed(ctx, Change{Kind: Created, After: d.Ref()})
}

func errKeyTaken(key string) error {
	return fleet.E(fleet.Exists, nil, "The key %s is that of another device", key)
}
