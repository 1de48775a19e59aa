package logs_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// Each device in a message is told of once, however many lines it has and though
// the journal does not take them; what belongs to nobody is not.
func TestHeard(t *testing.T) {
	var told []int64
	in := logs.NewIngest(logs.IngestOptions{
		EntityField: "entity_id", Directory: boards, Journal: newMemory(), Ledger: logs.NewLedger(0),
		Quota: logs.NewQuota(logs.Limits{LinesPerSecond: 1, Burst: 1}, nil), Metrics: logs.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		Heard: func(d fleet.DeviceRef, at time.Time) {
			if !at.Equal(noon) {
				t.Errorf("%d at %v", d.ID, at)
			}
			told = append(told, d.ID)
		},
	})
	source := make(script)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- in.Run(ctx, source) }()
	f := func(clientID, payload string, want ...int64) {
		t.Helper()
		told = nil
		done := make(chan error, 1)
		source <- logs.Message{ClientID: clientID, Payload: []byte(payload), Received: noon, Done: func(err error) { done <- err }}
		<-done
		if !slices.Equal(told, want) {
			t.Errorf("%s %s: told of %v, want %v", clientID, payload, told, want)
		}
	}
	f("", `{"entity_id":"a","message":"1"}`+"\n"+`{"entity_id":"b","message":"2"}`+"\n"+`{"entity_id":"a","message":"3"}`, 1, 2)
	f("", `{"entity_id":"a","message":"over its quota"}`, 1)
	f("", `{"entity_id":"twin","message":"1"}`, 3, 4)
	f("", `{"entity_id":"nobody","message":"1"}`+"\n"+`{"message":"2"}`+"\n"+`rubbish`)
	f("iotdevice-m-eeeeeeee", `{"entity_id":"a","message":"1"}`, 5)
	f("iotdevice-m-zzzzzzzz", `{"entity_id":"a","message":"1"}`)
	f("iotdevice-m-eeeeeeee", `rubbish`)
	stop()
	if err := <-ended; !errors.Is(err, errScript) {
		t.Error(err)
	}
}
