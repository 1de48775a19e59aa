package rotation_test

import (
	"testing"

	"go.uber.org/goleak"
)

// lengthy is for tests of hours and days, of which the race detector makes
// minutes of ours and finds nothing that it does not find in the others. They run
// without it.
func lengthy(t *testing.T) {
	t.Helper()
	if underRace {
		t.Skip("runs without the race detector: go test ./internal/rotation")
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
