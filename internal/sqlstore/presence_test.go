package sqlstore_test

import (
	"path/filepath"
	"testing"

	"signalbox/internal/conformance"
)

func TestPresenceSQLite(t *testing.T) {
	conformance.Presence(t, func(t *testing.T) conformance.PresenceStore { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}
