package local

import "context"

// TurnKeys does what Run does now and then.
func (i *Issuer) TurnKeys(ctx context.Context) error { return i.turnKeys(ctx) }
