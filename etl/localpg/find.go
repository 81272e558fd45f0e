package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The majors we support, both ends included.
const (
	oldestMajor = 15
	newestMajor = 18
)

// ErrNotFound is in every error of Find and Start that means: this machine has no binaries that fit.
// A caller with another way to a database (a container, a download) tries that next.
var ErrNotFound = errors.New("no usable PostgreSQL binaries")

// Source finds binaries of a major version, or of any that we support when major is 0. An error that wraps ErrNotFound
// means that it has none, and says why and what it would have wanted.
type Source func(ctx context.Context, major int) (Binaries, error)

// Either is the first of the sources that has binaries.
func Either(sources ...Source) Source {
	return func(ctx context.Context, major int) (Binaries, error) {
		var said []error
		for _, find := range sources {
			b, err := find(ctx, major)
			if !errors.Is(err, ErrNotFound) {
				return b, err
			}
			said = append(said, err)
		}
		return Binaries{}, errors.Join(said...)
	}
}

// absent says why a source has nothing. It wraps ErrNotFound without repeating its words in every line.
type absent struct{ why error }

func (a absent) Error() string   { return a.why.Error() }
func (a absent) Unwrap() []error { return []error{a.why, ErrNotFound} }

// Binaries is one installation of the server.
type Binaries struct {
	Dir     string // holds postgres and initdb; symbolic links resolved
	Version string // as the binary says it: "15.18"
	Major   int    // 15
	Where   string // what led here: "PATH", "/usr/lib/postgresql/*/bin", "download"
}

// Installed is a Source: it searches PATH, the folders of the Linux packages, /usr/local/pgsql, Homebrew, Postgres.app
// and what pg_config says, in this order, and returns the first installation that has postgres and initdb of version
// 15 to 18; within one place the newest major wins. The error tells where it looked and what it refused.
// It changes nothing, so repeating is safe.
func Installed(ctx context.Context, major int) (Binaries, error) {
	return find(ctx, usualPlaces(), major)
}

// place is one stop of the search: a name for people, and the folders it offers.
type place struct {
	name string
	dirs func(ctx context.Context) []string
}

func usualPlaces() []place {
	return []place{
		onPath(),
		glob("/usr/lib/postgresql/*/bin"), // Debian, Ubuntu
		glob("/usr/pgsql-*/bin"),          // RPMs of postgresql.org
		glob("/usr/libexec/postgresql*"),  // Alpine
		glob("/usr/local/pgsql/bin"),      // built from source
		glob("/opt/homebrew/opt/postgresql*/bin"),
		glob("/usr/local/opt/postgresql*/bin"), // Homebrew on Intel
		glob("/Applications/Postgres.app/Contents/Versions/*/bin"),
		pgConfig(),
	}
}

func onPath() place {
	return place{"PATH", func(context.Context) []string {
		file, err := exec.LookPath("postgres")
		if err != nil {
			return nil
		}
		// Often a link to the one binary; initdb lies beside its target.
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return nil
		}
		return []string{filepath.Dir(file)}
	}}
}

func glob(pattern string) place {
	return place{pattern, func(context.Context) []string {
		dirs, _ := filepath.Glob(pattern)
		return dirs
	}}
}

func pgConfig() place {
	return place{"pg_config --bindir", func(ctx context.Context) []string {
		out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
		if err != nil {
			return nil
		}
		return []string{strings.TrimSpace(string(out))}
	}}
}

// find returns the first installation of the wanted major; 0 means any supported one.
func find(ctx context.Context, places []place, major int) (Binaries, error) {
	var looked, refused []string
	seen := map[string]bool{}
	for _, p := range places {
		looked = append(looked, p.name)
		var fit []Binaries
		for _, dir := range p.dirs(ctx) {
			dir, err := filepath.EvalSymlinks(dir)
			if err != nil || seen[dir] {
				continue
			}
			seen[dir] = true
			b, err := inspect(ctx, dir, major)
			if err != nil {
				refused = append(refused, err.Error())
				continue
			}
			b.Where = p.name
			fit = append(fit, b)
		}
		if len(fit) > 0 {
			return slices.MaxFunc(fit, func(a, b Binaries) int { return a.Major - b.Major }), nil
		}
	}
	if err := ctx.Err(); err != nil {
		return Binaries{}, fmt.Errorf("find PostgreSQL: %w", err)
	}
	if refused == nil {
		refused = []string{"nothing found"}
	}
	return Binaries{}, absent{fmt.Errorf("installed: want postgres and initdb of version %s\n  looked in: %s\n  refused:   %s",
		wanted(major), strings.Join(looked, ", "), strings.Join(refused, "; "))}
}

func wanted(major int) string {
	if major == 0 {
		return fmt.Sprintf("%d to %d", oldestMajor, newestMajor)
	}
	return strconv.Itoa(major)
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// inspect asks the binaries of a folder who they are; the error is the reason to refuse them.
func inspect(ctx context.Context, dir string, major int) (Binaries, error) {
	for _, name := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return Binaries{}, fmt.Errorf("%s has no %s", dir, name)
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("%s: postgres --version: %w", dir, err)
	}
	m := versionLine.FindStringSubmatch(string(out))
	if m == nil {
		return Binaries{}, fmt.Errorf("%s: postgres --version says %q", dir, strings.TrimSpace(string(out)))
	}
	b := Binaries{Dir: dir, Version: m[1]}
	b.Major, _ = strconv.Atoi(m[2])
	if b.Major < oldestMajor || b.Major > newestMajor || (major != 0 && b.Major != major) {
		return Binaries{}, fmt.Errorf("%s is PostgreSQL %s, want %s", dir, b.Version, wanted(major))
	}
	return b, nil
}
