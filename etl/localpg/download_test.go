package localpg

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// jarOf is an artifact as the repository has it. The .txz in testdata are tar and xz of scripts that only know their
// version (server), of what no machine runs (foreign) and of a path that leaves its folder (escaping).
func jarOf(t *testing.T, txz string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata", txz))
	must(t, err)
	return zipped(t, "postgres-linux-x86_64.txz", packed)
}

func zipped(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	for _, file := range []string{"META-INF/MANIFEST.MF", name} {
		f, err := w.Create(file)
		must(t, err)
		_, err = f.Write(content)
		must(t, err)
	}
	must(t, w.Close())
	return jar.Bytes()
}

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// repository serves one file and counts the requests.
type repository struct {
	*httptest.Server
	asked atomic.Int32
}

const jarPath = "/maven2/io/zonky/test/postgres/embedded-postgres-binaries-linux-test/17.99.0/embedded-postgres-binaries-linux-test-17.99.0.jar"

func serve(t *testing.T, answer http.HandlerFunc) *repository {
	t.Helper()
	r := &repository{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		if q.URL.Path != jarPath {
			http.NotFound(w, q)
			return
		}
		answer(w, q)
	}))
	t.Cleanup(r.Close)
	return r
}

func body(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }
}

// from is a Download of PostgreSQL 17.99 with this checksum.
func (r *repository) download(t *testing.T, sum string) Download {
	return Download{
		Repository: r.URL + "/maven2/", Dir: filepath.Join(t.TempDir(), "cache"),
		platform: "linux-test", releases: []release{{17, "17.99.0", map[string]string{"linux-test": sum}}},
	}
}

// holds lists the cache.
func holds(t *testing.T, d Download) []string {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(d.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

const treeName = "postgres-17.99.0-linux-test"

func TestDownload(t *testing.T) {
	jar := jarOf(t, "server.txz")
	r := serve(t, body(jar))
	d := r.download(t, sumOf(jar))
	d.Repository = strings.Replace(d.Repository, "http://", "http://me:secret@", 1)
	var notices []string
	d.Notice = func(line string) { notices = append(notices, line) }

	want := Binaries{Dir: filepath.Join(d.Dir, treeName, "bin"), Version: "17.99", Major: 17, Where: "download"}
	for range 2 {
		for _, major := range []int{0, 17} {
			got, err := d.Find(t.Context(), major)
			must(t, err)
			got.Dir = strings.Replace(got.Dir, resolved(t, d.Dir), d.Dir, 1)
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
	}
	address := strings.Replace(r.URL, "http://", "http://me:xxxxx@", 1) + jarPath
	if want := []string{"downloading PostgreSQL 17.99, some 15 MB, from " + address + " to " + d.Dir}; !slices.Equal(notices, want) {
		t.Errorf("notices %q\nwant %q", notices, want)
	}
	if got := r.asked.Load(); got != 1 {
		t.Errorf("%d requests, want 1: the cache has it", got)
	}
	for name, want := range map[string]fs.FileMode{"bin": 0o755, "bin/postgres": 0o755, "share/notes": 0o644} {
		info, err := os.Stat(filepath.Join(d.Dir, treeName, name))
		must(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o: another user runs it", name, got, want)
		}
	}
	if got, _ := os.Readlink(filepath.Join(d.Dir, treeName, "lib/libpq.so")); got != "libpq.so.5" {
		t.Errorf("link points to %q", got)
	}
	if got := holds(t, d); !slices.Equal(got, []string{"lock", treeName}) {
		t.Errorf("cache holds %q", got)
	}

	t.Run("offline", func(t *testing.T) {
		d := d
		d.Repository = Off
		if _, err := d.Find(t.Context(), 17); err != nil {
			t.Errorf("the cache has it, got %v", err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		must(t, os.Remove(filepath.Join(d.Dir, treeName, "bin/initdb")))
		if _, err := d.Find(t.Context(), 17); err != nil || r.asked.Load() != 2 {
			t.Errorf("%v after %d requests, want a second download", err, r.asked.Load())
		}
	})
}

func TestDownloadRefuses(t *testing.T) {
	jar := jarOf(t, "server.txz")
	for name, c := range map[string]struct {
		answer      http.HandlerFunc
		change      func(*Download)
		sum         []byte // what the checksum is of, jar unless given
		major       int
		unreachable bool
		want        string
	}{
		"another file": {answer: body([]byte("<html>please log in</html>")), want: "its SHA-256 is " + sumOf([]byte("<html>please log in</html>")) + ", want " + sumOf(jar) + ": the file is not what was released"},
		"cut off": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(jar)))
			_, _ = w.Write(jar[:100])
		}, unreachable: true, want: "repository cannot be reached: after 100 bytes: unexpected EOF"},
		"no such file":       {answer: http.NotFound, want: "404 Not Found: want a repository that has this file"},
		"server trouble":     {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, unreachable: true, want: "repository cannot be reached: 503 Service Unavailable"},
		"nobody listens":     {change: func(d *Download) { d.Repository = "http://127.0.0.1:1/maven2" }, unreachable: true, want: "GET http://127.0.0.1:1" + jarPath + ": repository cannot be reached: dial tcp 127.0.0.1:1: "},
		"no zip":             {answer: body([]byte("x")), sum: []byte("x"), want: "unpack http://"},
		"nothing inside":     {answer: body(zipped(t, "readme", nil)), sum: zipped(t, "readme", nil), want: "it holds no .txz"},
		"no xz":              {answer: body(zipped(t, "a.txz", []byte("plain text"))), sum: zipped(t, "a.txz", []byte("plain text")), want: "unpack http://"},
		"path outside":       {answer: body(jarOf(t, "escaping.txz")), sum: jarOf(t, "escaping.txz"), want: "path escapes from parent"},
		"for other machines": {answer: body(jarOf(t, "foreign.txz")), sum: jarOf(t, "foreign.txz"), want: "what came does not run here: "},
		"another major":      {change: func(d *Download) { d.releases[0].major = 16 }, major: 16, want: "is PostgreSQL 17.99, want 16"},
		"no build":           {change: func(d *Download) { d.platform = "plan9-mips" }, want: "download PostgreSQL 17.99: there is no build for plan9-mips"},
		"no release":         {major: 19, want: "download: no release of PostgreSQL 19, want 15 to 18"},
		"off":                {change: func(d *Download) { d.Repository = Off }, unreachable: true, want: "downloads are off, and the cache does not hold it"},
		"no URL":             {change: func(d *Download) { d.Repository = "/srv/maven" }, want: `repository "/srv/maven": want a URL like https://repo1.maven.org/maven2, or off`},
	} {
		t.Run(name, func(t *testing.T) {
			if c.answer == nil {
				c.answer = body(jar)
			}
			if c.sum == nil {
				c.sum = jar
			}
			d := serve(t, c.answer).download(t, sumOf(c.sum))
			if c.change != nil {
				c.change(&d)
			}
			_, err := d.Find(t.Context(), c.major)
			if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable) != c.unreachable || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v (unreachable %v)\nwant %s (%v)", err, errors.Is(err, ErrUnreachable), c.want, c.unreachable)
			}
			if got := slices.DeleteFunc(holds(t, d), func(name string) bool { return name == "lock" }); len(got) > 0 {
				t.Errorf("cache holds %q after the error", got)
			}
		})
	}
}

// Locks belong to open files, so goroutines stand for processes here.
func TestDownloadByManyAtOnce(t *testing.T) {
	jar := jarOf(t, "server.txz")
	r := serve(t, func(w http.ResponseWriter, q *http.Request) {
		time.Sleep(100 * time.Millisecond)
		body(jar)(w, q)
	})
	d := r.download(t, sumOf(jar))
	// What a process left that was killed in the middle.
	must(t, os.MkdirAll(filepath.Join(d.Dir, treeName+newSuffix, "tree", "bin"), 0o755))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := d.Find(context.Background(), 17); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := r.asked.Load(); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
	if got := holds(t, d); !slices.Equal(got, []string{"lock", treeName}) {
		t.Errorf("cache holds %q", got)
	}
}

func TestDownloadStops(t *testing.T) {
	r := serve(t, func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })
	d := r.download(t, sumOf(nil))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := d.Find(ctx, 17)
		first <- err
	}()
	eventually(t, "the first process fetches", func() bool { return r.asked.Load() == 1 })
	waiting, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err := d.Find(waiting, 17)
	if want := "wait for another process that fills " + d.Dir; !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
		t.Errorf("second: got %v, want %s", err, want)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotFound) {
		t.Errorf("first: got %v, want only context.Canceled", err)
	}
}

func TestEither(t *testing.T) {
	broken := errors.New("broken")
	no := func(context.Context, int) (Binaries, error) { return Binaries{}, absent{errors.New("none here")} }
	bad := func(context.Context, int) (Binaries, error) { return Binaries{}, broken }
	yes := func(_ context.Context, major int) (Binaries, error) { return Binaries{Major: major}, nil }
	if b, err := Either(no, yes, bad)(t.Context(), 16); err != nil || b.Major != 16 {
		t.Errorf("got %v, %v", b, err)
	}
	if _, err := Either(no, bad, yes)(t.Context(), 16); err != broken {
		t.Errorf("got %v, want the error that is not ErrNotFound", err)
	}
	if _, err := Either(no, no)(t.Context(), 16); !errors.Is(err, ErrNotFound) || err.Error() != "none here\nnone here" {
		t.Errorf("got %v", err)
	}
}

func TestReleases(t *testing.T) {
	platforms := []string{"darwin-arm64v8", "linux-amd64", "linux-arm64v8"}
	for i, r := range releases {
		if r.major != oldestMajor+i || !strings.HasPrefix(r.version, fmt.Sprint(r.major, ".")) || Release(r.major) == "" {
			t.Errorf("release %d is %s, want one of each major, oldest first", i, r.version)
		}
		var have []string
		for name, sum := range r.sums {
			have = append(have, name)
			if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
				t.Errorf("%s %s: %q is no SHA-256", r.version, name, sum)
			}
		}
		if slices.Sort(have); !slices.Equal(have, platforms) {
			t.Errorf("%s has %q, want %q", r.version, have, platforms)
		}
	}
	if Release(0) != Release(newestMajor) || Release(newestMajor+1) != "" {
		t.Errorf("newest %q, unknown %q", Release(0), Release(newestMajor+1))
	}
}
