package localpg

import (
	"archive/tar"
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/xi2/xz"
)

// MavenCentral is the repository that Download uses unless told otherwise.
const MavenCentral = "https://repo1.maven.org/maven2"

// Off is the repository of somebody who wants no downloads.
const Off = "off"

// ErrUnreachable is in the error of Download.Find when the repository could not or must not be asked, or not to the end:
// what another network or another time may cure.
var ErrUnreachable = errors.New("repository cannot be reached")

const (
	downloadPatience = 5 * time.Minute // the file has 10 to 20 MB
	maxJar           = 100 << 20
)

// Download gets the server builds of github.com/zonkyio/embedded-postgres-binaries from a Maven repository: bin, lib and
// share of one release in a file of some 15 MB, which is kept in a cache. The zero value uses Maven Central and the
// usual cache.
//
// What comes must have the SHA-256 that this program was built with, so any mirror will do and none must be trusted.
type Download struct {
	// Repository is the URL of a Maven repository, Off to use only what the cache holds; empty is MavenCentral.
	Repository string
	// Dir is the cache, empty for meterhouse/postgres in the user's cache folder. Root's is in /var/cache, since the
	// user that the server then runs as cannot enter root's home. It may be removed whenever no server runs from it.
	Dir string
	// Notice hears, in one line and before it begins, what is downloaded from where to where; nil is silence.
	Notice func(line string)

	releases []release // tests have their own
	platform string
}

// release is one version of the server and the SHA-256 of its file per platform, as the repository spells that.
type release struct {
	major   int
	version string // of the artifact: 18.4.0 is PostgreSQL 18.4
	sums    map[string]string
}

// The newest of each major that the repository has for all three platforms (2026-11-22). Oldest first.
var releases = []release{
	{15, "15.19.0", map[string]string{
		"linux-amd64":    "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f",
		"linux-arm64v8":  "95baf4bd4af31b91b3050118df59388ed0064756b556b850669e0300aa7b9911",
		"darwin-arm64v8": "9bfc44d3f50298bb14fa125da4b67a36f382f8134ab2fc95349b72bcd5ec4e87",
	}},
	{16, "16.15.0", map[string]string{
		"linux-amd64":    "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2",
		"linux-arm64v8":  "f846a9989d686b7977d6eca9bc9d8b2b69e3f70c7eb60e032197d9c574a6136c",
		"darwin-arm64v8": "65b953905f0a4d46030767a6b44a52360170d69a7985f1b02aa435f2f6256a83",
	}},
	{17, "17.11.0", map[string]string{
		"linux-amd64":    "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d",
		"linux-arm64v8":  "8b042e0ea418b1927d95399207950da0734d27fe01e29503ade3bdc464ad4c2b",
		"darwin-arm64v8": "a1c2786acb0c398f9b2d76806fc52f5dc8b222cbc8e9383a9b9702084daaf3a5",
	}},
	{18, "18.4.0", map[string]string{
		"linux-amd64":    "401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212",
		"linux-arm64v8":  "a9ec284923b9a7d2db41509bfb88c3d0eeb9f4aa5e2b29ea0aac5e8dbaf4c335",
		"darwin-arm64v8": "ab698c4486a795d2aa8a158b3a41e1201a77e7ff72a6255094cd5900080853c2",
	}},
}

// Release is the version of a major that Download gets, as people write it: "18.4". Major 0 means the newest.
// It returns "" for a major that we do not support.
func Release(major int) string {
	r, ok := releaseOf(releases, major)
	if !ok {
		return ""
	}
	return r.name()
}

func (r release) name() string { return strings.TrimSuffix(r.version, ".0") }

func releaseOf(all []release, major int) (release, bool) {
	if major == 0 {
		return all[len(all)-1], true
	}
	i := slices.IndexFunc(all, func(r release) bool { return r.major == major })
	if i < 0 {
		return release{}, false
	}
	return all[i], true
}

// Find is a Source: the release of the major from the cache, which is filled first when it lacks it. Processes that
// want the same wait for the one that fetches. An error wraps ErrNotFound unless the context ended, and ErrUnreachable
// when the network is to blame; the cache then is as it was.
func (d Download) Find(ctx context.Context, major int) (Binaries, error) {
	if d.releases == nil {
		d.releases, d.platform = releases, platform()
	}
	r, ok := releaseOf(d.releases, major)
	if !ok {
		return Binaries{}, absent{fmt.Errorf("download: no release of PostgreSQL %d, want %s", major, wanted(0))}
	}
	b, err := d.find(ctx, r)
	switch {
	case err == nil:
		return b, nil
	case ctx.Err() != nil:
		return Binaries{}, fmt.Errorf("download PostgreSQL %s: %w", r.name(), err)
	}
	return Binaries{}, absent{fmt.Errorf("download PostgreSQL %s: %w", r.name(), err)}
}

// platform is this machine in the words of the repository.
func platform() string {
	arch := runtime.GOARCH
	if arch == "arm64" {
		arch = "arm64v8"
	}
	return runtime.GOOS + "-" + arch
}

func (d Download) find(ctx context.Context, r release) (Binaries, error) {
	sum := r.sums[d.platform]
	if sum == "" {
		return Binaries{}, fmt.Errorf("there is no build for %s", d.platform)
	}
	cache, err := d.cache()
	if err != nil {
		return Binaries{}, err
	}
	dir := filepath.Join(cache, "postgres-"+r.version+"-"+d.platform)
	if b, err := cached(ctx, dir, r); err == nil {
		return b, nil
	}
	from, err := d.address(r)
	if err != nil {
		return Binaries{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, downloadPatience)
	defer cancel()
	unlock, err := lockCache(ctx, cache)
	if err != nil {
		return Binaries{}, err
	}
	defer unlock()
	if b, err := cached(ctx, dir, r); err == nil { // somebody was faster
		return b, nil
	}
	if d.Notice != nil {
		d.Notice(fmt.Sprintf("downloading PostgreSQL %s, some 15 MB, from %s to %s", r.name(), from.Redacted(), cache))
	}
	if err := fill(ctx, dir, from, sum, r); err != nil {
		return Binaries{}, err
	}
	return cached(ctx, dir, r)
}

// cache makes sure that the folder exists and that the server's user can pass.
func (d Download) cache() (string, error) {
	dir := d.Dir
	if dir == "" {
		home, err := os.UserCacheDir()
		if os.Geteuid() == 0 {
			home, err = "/var/cache", nil
		}
		if err != nil {
			return "", fmt.Errorf("find the cache folder: %w", err)
		}
		dir = filepath.Join(home, "meterhouse", "postgres")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if d.Dir == "" && os.Geteuid() == 0 { // whatever the umask says
		for _, made := range []string{filepath.Dir(dir), dir} {
			if err := os.Chmod(made, 0o755); err != nil {
				return "", err
			}
		}
	}
	return dir, nil
}

// address is where the release's file lies in the repository.
func (d Download) address(r release) (*url.URL, error) {
	repository := d.Repository
	switch repository {
	case "":
		repository = MavenCentral
	case Off:
		return nil, fmt.Errorf("%w: downloads are off, and the cache does not hold it", ErrUnreachable)
	}
	u, err := url.Parse(repository)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("repository %q: want a URL like %s, or %s", repository, MavenCentral, Off)
	}
	artifact := "embedded-postgres-binaries-" + d.platform
	return u.JoinPath("io/zonky/test/postgres", artifact, r.version, artifact+"-"+r.version+".jar"), nil
}

// cached asks the binaries of a filled folder who they are.
func cached(ctx context.Context, dir string, r release) (Binaries, error) {
	b, err := inspect(ctx, filepath.Join(dir, "bin"), r.major)
	b.Where = "download"
	return b, err
}

// lockCache waits until no other process fills the cache.
func lockCache(ctx context.Context, cache string) (unlock func(), err error) {
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			_ = lock.Close()
			return nil, fmt.Errorf("wait for another process that fills %s: %w", cache, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return func() { _ = lock.Close() }, nil
}

// fill works beside dir; the rename comes last, so a folder that is there is whole. The cache is locked, so what an
// earlier attempt left is nobody's.
func fill(ctx context.Context, dir string, from *url.URL, sum string, r release) error {
	half := dir + newSuffix
	for _, leftover := range []string{half, dir} {
		if err := os.RemoveAll(leftover); err != nil {
			return err
		}
	}
	defer os.RemoveAll(half)
	if err := os.Mkdir(half, 0o755); err != nil {
		return err
	}
	jar, err := os.Create(filepath.Join(half, "jar"))
	if err != nil {
		return err
	}
	defer jar.Close()
	size, err := get(ctx, from, sum, jar)
	if err != nil {
		return fmt.Errorf("GET %s: %w", from.Redacted(), err)
	}
	tree := filepath.Join(half, "tree")
	if err := unpack(jar, size, tree); err != nil {
		return fmt.Errorf("unpack %s: %w", from.Redacted(), err)
	}
	if _, err := inspect(ctx, filepath.Join(tree, "bin"), r.major); err != nil {
		return fmt.Errorf("what came does not run here: %w", err)
	}
	return os.Rename(tree, dir)
}

// get copies the file and demands its SHA-256.
func get(ctx context.Context, from *url.URL, sum string, to io.Writer) (size int64, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		if wrapped := new(url.Error); errors.As(err, &wrapped) {
			err = wrapped.Err // it would repeat the address
		}
		return 0, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode >= 500, response.StatusCode == http.StatusTooManyRequests:
		return 0, fmt.Errorf("%w: %s", ErrUnreachable, response.Status)
	case response.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("%s: want a repository that has this file", response.Status)
	}
	hash := sha256.New()
	size, err = io.Copy(io.MultiWriter(to, hash), io.LimitReader(response.Body, maxJar+1))
	if err != nil {
		return 0, fmt.Errorf("%w: after %d bytes: %w", ErrUnreachable, size, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return 0, fmt.Errorf("its SHA-256 is %s, want %s: the file is not what was released, nothing of it was used", got, sum)
	}
	return size, nil
}

// unpack extracts the one .txz that the jar holds into a new folder that every user may read.
func unpack(jar io.ReaderAt, size int64, dir string) error {
	archive, err := zip.NewReader(jar, size)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(archive.File, func(f *zip.File) bool { return strings.HasSuffix(f.Name, ".txz") })
	if i < 0 {
		return errors.New("it holds no .txz")
	}
	packed, err := archive.File[i].Open()
	if err != nil {
		return err
	}
	defer packed.Close()
	plain, err := xz.NewReader(packed, 0)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for entries := tar.NewReader(plain); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return openUp(dir)
		}
		if err != nil {
			return err
		}
		if err := extract(root, entry, entries); err != nil {
			return fmt.Errorf("%s: %w", entry.Name, err)
		}
	}
}

func extract(root *os.Root, entry *tar.Header, content io.Reader) error {
	name := filepath.Clean(entry.Name)
	if entry.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, 0o755)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch entry.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(entry.Linkname, name)
	case tar.TypeReg:
		file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if entry.Mode&0o100 != 0 {
			mode = 0o755
		}
		_, err = io.Copy(file, content)
		return errors.Join(err, file.Chmod(mode), file.Close())
	}
	return fmt.Errorf("entry of type %q, want file, folder or symbolic link", entry.Typeflag)
}

// openUp lets every user pass the folders, whatever the umask was; the server's user may be another.
func openUp(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o755)
	})
}
