package sqlstore_test

import (
	"path/filepath"
	"testing"

	"signalbox/internal/conformance"
)

func TestLinksSQLite(t *testing.T) {
	conformance.Links(t, func(t *testing.T) conformance.LinkStore { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}
