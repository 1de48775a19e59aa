package registry

import (
	"context"

	"signalbox/internal/fleet"
)

// Allow returns a context for calls that may change devices only as f allows:
// within the transaction, f is asked about every change of a device before it is
// committed. With an error of f nothing is changed, and the call returns it. f
// must be quick and must not use the Service.
func Allow(ctx context.Context, f func(Change) error) context.Context {
	return context.WithValue(ctx, allowKey{}, f)
}

type allowKey struct{}

// allowed asks what Allow gave to the context.
func allowed(ctx context.Context, ch Change) error {
	if f, ok := ctx.Value(allowKey{}).(func(Change) error); ok && ch.Kind != 0 {
		return f(ch)
	}
	return nil
}

// readTags fills in the tags of devices that were stored before Signalbox knew
// any, where the config has some that are as they must be. A config that spells
// the name with escapes is read when it is saved the next time.
func (s *Service) readTags(ctx context.Context) error {
	ids, err := s.store.Untagged(ctx)
	if err != nil || len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		err := s.store.Tx(ctx, func(q Queries) error {
			d, err := q.Device(ctx, id)
			if err != nil || d.Tags != "" {
				return err
			}
			config, err := parseJSON(d.Config)
			if err != nil {
				return nil // what was once saved and is not JSON by today's rules has none
			}
			settings, _ := extract(config)
			if settings.tags == "" {
				return nil
			}
			d.Tags = settings.tags
			return q.UpdateDevice(ctx, d)
		})
		if err != nil && fleet.KindOf(err) != fleet.NotFound { // deleted meanwhile by another process
			return err
		}
	}
	return nil
}
