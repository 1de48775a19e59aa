package app

import (
	"os"
	"path/filepath"
	"testing"

	"signalbox/internal/config"
)

func TestSecretKey(t *testing.T) {
	cfg := &config.Config{DataDir: t.TempDir()}
	path := filepath.Join(cfg.DataDir, "secret.key")
	first, err := secretKey(cfg)
	if err != nil || len(first) < 40 {
		t.Fatalf("%d characters, %v", len(first), err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if again, err := secretKey(cfg); err != nil || again != first {
		t.Errorf("another key after a restart, or %v", err)
	}
	if entries, err := os.ReadDir(cfg.DataDir); err != nil || len(entries) != 1 {
		t.Errorf("left in DATA_DIR: %v, %v", entries, err)
	}

	cfg.SecretKey = "sixteen letters."
	if key, err := secretKey(cfg); err != nil || key != "sixteen letters." {
		t.Errorf("SECRET_KEY is passed over: %v", err)
	}
	cfg.SecretKey = ""
	for _, damaged := range []string{"", "short\n"} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := secretKey(cfg); err == nil {
			t.Errorf("%q is taken for a key", damaged)
		}
		if content, err := os.ReadFile(path); err != nil || string(content) != damaged {
			t.Errorf("%q was replaced by %q, %v", damaged, content, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	cfg.DataDir = filepath.Join(cfg.DataDir, "missing")
	if _, err := secretKey(cfg); err == nil {
		t.Error("a key that is not kept")
	}
}
