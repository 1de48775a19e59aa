package sqlstore_test

import (
	"path/filepath"
	"testing"

	"signalbox/internal/conformance"
)

func TestCampaignsSQLite(t *testing.T) {
	conformance.Campaigns(t, func(t *testing.T) conformance.CampaignStore { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}
