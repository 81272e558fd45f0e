package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// readmeConfiguration is the configuration that the README shows.
func readmeConfiguration(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "```yaml\n")
	yaml, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("README.md shows no configuration")
	}
	return yaml
}

// The configuration that the README shows is accepted as it stands.
func TestREADMEConfiguration(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "meterhouse.yaml")
	if err := os.WriteFile(file, []byte(readmeConfiguration(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	got := invoke(t, map[string]string{
		"DATABASE_URL": "postgres://user:made-up@127.0.0.1/db", "METERHOUSE_SECRETS_KEY": testKey,
		"KEYSTONE_REFRESH_TOKEN": "made-up-refresh-token", "WOLKVOX_TOKEN": "made-up-token",
	}, "", "--config", file, "config", "show")
	if got.code != 0 || got.stderr != "" {
		t.Errorf("exit %d, stderr %s", got.code, got.stderr)
	}
	for _, secret := range []string{"made-up", testKey} {
		if strings.Contains(got.stdout, secret) {
			t.Errorf("config show prints the secret %q", secret)
		}
	}
}
