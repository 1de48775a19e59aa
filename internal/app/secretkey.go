package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"signalbox/internal/config"
	"signalbox/internal/secret"
)

// secretKey returns SECRET_KEY or, where none is set, a key of its own that is
// made once and then kept in DATA_DIR/secret.key. What was sealed under a key
// cannot be read without it, so a file that is no key is an error and not
// replaced. The caller holds the lock of DATA_DIR.
func secretKey(cfg *config.Config) (string, error) {
	if key := cfg.SecretKey.Reveal(); key != "" {
		return key, nil
	}
	path := keyFile(cfg)
	content, err := os.ReadFile(path)
	if err == nil {
		key := strings.TrimSpace(string(content))
		if len(key) < config.LeastSecretKey {
			return "", fmt.Errorf("%s is no key: it has less than %d characters", path, config.LeastSecretKey)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("SECRET_KEY: %w", err)
	}
	key := secret.NewText()
	if err := keepFile(path, key+"\n"); err != nil {
		return "", fmt.Errorf("SECRET_KEY: %w", err)
	}
	return key, nil
}

// keyFile returns where the key of our own is.
func keyFile(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "secret.key") }

// keepFile makes a file that only we may read, whole or not at all.
func keepFile(path, content string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error is the one that tells
		}
	}()
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
