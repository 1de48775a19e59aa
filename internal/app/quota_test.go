package app

import (
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/config"
	"signalbox/internal/logs"
)

// What a model does not say for itself is as for all; its burst goes with its
// own rate.
func TestLimits(t *testing.T) {
	f := func(quota string, want logs.Limits, settings ...string) {
		t.Helper()
		e, err := config.Load(config.Sources{
			Environ:  append(settings, `DEVICE_LOG_QUOTAS={"m":`+quota+`}`),
			ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		})
		if err != nil {
			t.Fatal(err)
		}
		all, models := limitsOf(&e.Config)
		if diff := cmp.Diff(want, models["m"]); diff != "" || len(models) != 1 {
			t.Errorf("%s: %s", quota, diff)
		}
		_, models = limitsOf(&config.Config{DeviceLogQuotas: config.Quotas{"m": {}},
			DeviceLogRate: e.DeviceLogRate, DeviceLogBurst: e.DeviceLogBurst, DeviceLogBytesRate: e.DeviceLogBytesRate,
			DeviceLogLinesPerDay: e.DeviceLogLinesPerDay, DeviceLogBytesPerDay: e.DeviceLogBytesPerDay})
		if models["m"] != all {
			t.Errorf("all %+v, a model that says nothing %+v", all, models["m"])
		}
	}
	all := []string{"DEVICE_LOG_RATE=5", "DEVICE_LOG_BURST=70", "DEVICE_LOG_BYTES_RATE=2KiB", "DEVICE_LOG_LINES_PER_DAY=1000", "DEVICE_LOG_BYTES_PER_DAY=1MiB"}
	f(`{}`, logs.Limits{})
	f(`{}`, logs.Limits{LinesPerSecond: 5, Burst: 70, BytesPerSecond: 2048, LinesPerDay: 1000, BytesPerDay: 1 << 20}, all...)
	f(`{"lines_per_second":3}`, logs.Limits{LinesPerSecond: 3, Burst: 30, BytesPerSecond: 2048, LinesPerDay: 1000, BytesPerDay: 1 << 20}, all...)
	f(`{"lines_per_second":3,"burst":4}`, logs.Limits{LinesPerSecond: 3, Burst: 4, BytesPerSecond: 2048, LinesPerDay: 1000, BytesPerDay: 1 << 20}, all...)
	f(`{"burst":0}`, logs.Limits{LinesPerSecond: 5, Burst: 50, BytesPerSecond: 2048, LinesPerDay: 1000, BytesPerDay: 1 << 20}, all...)
	f(`{"lines_per_second":0,"bytes_per_second":0,"lines_per_day":0,"bytes_per_day":0}`, logs.Limits{}, all...)
	f(`{"bytes_per_second":1,"lines_per_day":2,"bytes_per_day":3}`, logs.Limits{BytesPerSecond: 1, LinesPerDay: 2, BytesPerDay: 3})
}
