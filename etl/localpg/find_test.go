package localpg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// installed makes a fake installation that only knows its version.
func installed(t *testing.T, dir, version string, names ...string) string {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for _, name := range names {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) "+version+"'\n"), 0o755))
	}
	return dir
}

func TestFindRealBinaries(t *testing.T) {
	b, err := Installed(t.Context(), 0)
	if err != nil {
		t.Fatalf("this package is tested with a real server, so one must be installed: %v", err)
	}
	t.Logf("%+v", b)
}

func TestFindChoosesNewestSupported(t *testing.T) {
	base := resolved(t, t.TempDir())
	installed(t, base+"/9.6", "9.6.24", "postgres", "initdb")
	installed(t, base+"/15", "15.3", "postgres", "initdb")
	installed(t, base+"/17", "17.2 (Debian 17.2-1)", "postgres", "initdb")
	installed(t, base+"/18", "18.0", "postgres")
	installed(t, base+"/99", "99devel", "postgres", "initdb")
	places := []place{glob(base + "/none*"), glob(base + "/*"), glob("/usr/lib/postgresql/*/bin")}

	for major, want := range map[int]string{0: "17.2", 15: "15.3"} {
		b, err := find(t.Context(), places, major)
		must(t, err)
		if b.Version != want || b.Dir != base+"/"+strings.Split(want, ".")[0] || b.Where != base+"/*" {
			t.Errorf("major %d: got %+v, want %s", major, b, want)
		}
	}

	_, err := find(t.Context(), places[:2], 16)
	for _, want := range []string{
		base + "/15 is PostgreSQL 15.3, want 16",
		base + "/18 has no initdb",
		base + "/9.6 is PostgreSQL 9.6.24, want 16",
		base + "/99 is PostgreSQL 99devel, want 16",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

func TestFindFollowsLinkOnPath(t *testing.T) {
	base := resolved(t, t.TempDir())
	installed(t, base+"/real", "16.1", "postgres", "initdb")
	must(t, os.Mkdir(base+"/path", 0o755))
	must(t, os.Symlink(base+"/real/postgres", base+"/path/postgres"))
	t.Setenv("PATH", base+"/path:"+os.Getenv("PATH"))
	b, err := Installed(t.Context(), 0)
	must(t, err)
	if want := (Binaries{Dir: base + "/real", Version: "16.1", Major: 16, Where: "PATH"}); b != want {
		t.Errorf("got %+v, want %+v", b, want)
	}
}

func TestNotFound(t *testing.T) {
	places := []place{glob("/nowhere/*/bin"), glob("/nowhere/else")}
	nowhere := func(ctx context.Context, major int) (Binaries, error) { return find(ctx, places, major) }
	_, err := Start(t.Context(), Config{Log: testLog(t), Source: Either(nowhere, Download{Repository: Off, Dir: t.TempDir()}.Find)})
	want := `localpg: start temporary server: no usable PostgreSQL binaries
  installed: want postgres and initdb of version 15 to 18
    looked in: /nowhere/*/bin, /nowhere/else
    refused:   nothing found
  download PostgreSQL ` + Release(0) + `: repository cannot be reached: downloads are off, and the cache does not hold it
  any one of these helps:
    apt-get install postgresql         (Debian, Ubuntu)
    brew install postgresql@17         (macOS)
    set METERHOUSE_POSTGRES_REPOSITORY (a mirror of Maven Central, for the download)
    set METERHOUSE_DATABASE_URL        (a running server, postgres://user:password@host/database)`
	if !errors.Is(err, ErrNotFound) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
