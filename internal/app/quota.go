package app

import (
	"signalbox/internal/config"
	"signalbox/internal/logs"
)

// quotaOf returns the quota that the settings ask for.
func quotaOf(cfg *config.Config) *logs.Quota { return logs.NewQuota(limitsOf(cfg)) }

// limitsOf returns the limits for all devices, and by model code those of the
// models that have their own.
func limitsOf(cfg *config.Config) (all logs.Limits, models map[string]logs.Limits) {
	all = logs.Limits{
		LinesPerSecond: int64(cfg.DeviceLogRate), Burst: int64(cfg.DeviceLogBurst), BytesPerSecond: int64(cfg.DeviceLogBytesRate),
		LinesPerDay: int64(cfg.DeviceLogLinesPerDay), BytesPerDay: int64(cfg.DeviceLogBytesPerDay),
	}
	models = map[string]logs.Limits{}
	for code, own := range cfg.DeviceLogQuotas {
		l := all
		if own.LinesPerSecond != nil {
			l.LinesPerSecond, l.Burst = *own.LinesPerSecond, 0 // the burst for all belongs to the rate for all
		}
		if own.Burst != nil {
			l.Burst = *own.Burst
		}
		if l.Burst == 0 {
			l.Burst = 10 * l.LinesPerSecond
		}
		for limit, given := range map[*int64]*int64{&l.BytesPerSecond: own.BytesPerSecond, &l.LinesPerDay: own.LinesPerDay, &l.BytesPerDay: own.BytesPerDay} {
			if given != nil {
				*limit = *given
			}
		}
		models[code] = l
	}
	return all, models
}
