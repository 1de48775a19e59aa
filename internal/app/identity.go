package app

import (
	"errors"

	"signalbox/internal/config"
	"signalbox/internal/fleet"
)

// checkExposure refuses listeners that other machines can reach while everybody
// who reaches them may do everything.
func checkExposure(cfg *config.Config, login bool) error {
	if cfg.AllowInsecure || login {
		return nil
	}
	if found := cfg.Exposed(); len(found) > 0 {
		return fleet.E(fleet.Invalid, errors.Join(found...), "the settings have mistakes")
	}
	return nil
}
