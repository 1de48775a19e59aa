package sqlstore_test

import (
	"path/filepath"
	"testing"

	"signalbox/internal/conformance"
)

func TestRotationSQLite(t *testing.T) {
	conformance.Rotation(t, func(t *testing.T) conformance.RotationStore { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}
