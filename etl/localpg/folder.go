package localpg

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	lockName   = "meterhouse.lock"
	tempPrefix = "meterhouse-pg-"
	newSuffix  = ".new"  // a temporary folder before it is locked
	goneSuffix = ".gone" // one that is being removed
)

// ErrInUse is in the error of Start when a living process already runs a server in the folder.
var ErrInUse = errors.New("folder is in use")

// folder is a locked place for one server; see the package comment for what lies in it.
type folder struct {
	path string
	temp bool                // made by us, removed by close
	as   *syscall.Credential // whom the server runs as and files belong to; nil is ourselves
	lock *os.File
}

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// openFolder creates or reuses the folder and locks it; "" makes a temporary one.
func openFolder(path string, log *slog.Logger) (*folder, error) {
	as, err := runAs(path)
	if err != nil {
		return nil, err
	}
	base := tempBase(as)
	sweep(base, log)
	if path == "" {
		return tempFolder(base, as)
	}
	return keptFolder(path, as)
}

// tempFolder gives the folder its final name only when it is locked, so a sweep elsewhere never sees it without.
func tempFolder(base string, as *syscall.Credential) (*folder, error) {
	unborn, err := os.MkdirTemp(base, tempPrefix+"*"+newSuffix)
	if err != nil {
		return nil, err
	}
	lock, err := lockFolder(unborn, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	f := &folder{path: strings.TrimSuffix(unborn, newSuffix), temp: true, as: as, lock: lock}
	if err := os.Rename(unborn, f.path); err != nil {
		unlock(lock)
		return nil, err
	}
	return f.open()
}

func keptFolder(path string, as *syscall.Credential) (*folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// Parents may be shared, the folder itself is private.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	if wall := barrier(filepath.Dir(path), as); wall != "" {
		return nil, fmt.Errorf("user %s cannot enter %s, and as root the server must run as that user: "+
			"choose a folder outside of it, or run meterhouse as an ordinary user", userName(as), wall)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(path, lockName)); err != nil && len(entries) > 0 {
		return nil, fmt.Errorf("holds %d files that are not ours (no %s), want an empty or a new folder", len(entries), lockName)
	}
	lock, err := lockFolder(path, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	return (&folder{path: path, as: as, lock: lock}).open()
}

// open lets the server's user pass through a folder of root (pass, not list), and hands it the lock file, so that
// a folder used by root and its owner in turn stays usable for both.
func (f *folder) open() (*folder, error) {
	if f.as == nil {
		return f, nil
	}
	err := f.lock.Chown(int(f.as.Uid), int(f.as.Gid))
	if uid, _, _ := ownerOf(f.path); err == nil && uid == 0 {
		err = os.Chmod(f.path, 0o711)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// close gives the folder up and removes it when it was temporary.
func (f *folder) close() error {
	var err error
	if f.temp {
		err = remove(f.path)
	}
	unlock(f.lock)
	return err
}

// remove deletes a temporary folder that we hold the lock of. It goes out of the way first, so that nobody finds it half
// removed.
func remove(path string) error {
	gone := path + goneSuffix
	if err := os.Rename(path, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// lockFolder takes the folder for this process, or says who has it. Without O_CREATE there must be a lock file.
func lockFolder(path string, create int) (*os.File, error) {
	name := filepath.Join(path, lockName)
	lock, err := os.OpenFile(name, create|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer lock.Close()
		pid, _ := os.ReadFile(name)
		return nil, fmt.Errorf("%w by meterhouse process %s: stop that process or choose another folder",
			ErrInUse, strings.TrimSpace(string(pid)))
	}
	// Its owner or a sweep may have removed the folder between open and flock.
	ours, err := lock.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(name); err == nil && !os.SameFile(ours, now) {
			err = fmt.Errorf("%s was removed while we locked it", name)
		}
	}
	if err == nil {
		err = lock.Truncate(0)
	}
	if err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		unlock(lock)
		return nil, err
	}
	return lock, nil
}

// unlock says so explicitly: a child between fork and exec still shares the lock for a moment after close.
func unlock(lock *os.File) {
	_ = syscall.Flock(int(lock.Fd()), syscall.LOCK_UN)
	_ = lock.Close()
}

// sweep removes our temporary folders whose owners died. Those of the living are locked, those of other users not ours
// to judge. What cannot be removed now is left for the next sweep.
func sweep(base string, log *slog.Logger) {
	paths, _ := filepath.Glob(filepath.Join(base, tempPrefix+"*"))
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
			continue
		}
		// These two belong to nobody when their maker died on the way; otherwise it needs milliseconds.
		if strings.HasSuffix(path, goneSuffix) || strings.HasSuffix(path, newSuffix) {
			if time.Since(info.ModTime()) > time.Minute {
				_ = os.RemoveAll(path)
			}
			continue
		}
		lock, err := lockFolder(path, 0)
		if err != nil {
			continue
		}
		err = stopLeftover(&folder{path: path, lock: lock}, log)
		if err == nil {
			err = remove(path)
		}
		unlock(lock)
		if err != nil {
			log.Warn("temporary postgres folder of a dead process stays until the next sweep", "dir", path, "err", err)
			continue
		}
		log.Info("swept temporary postgres folder of a dead process", "dir", path)
	}
}

// create replaces a file without ever following a link, and leaves it to the server's user.
func (f *folder) create(name string, mode fs.FileMode) (*os.File, error) {
	file, err := os.CreateTemp(f.path, ".new-")
	if err != nil {
		return nil, err
	}
	err = file.Chmod(mode)
	if err == nil && f.as != nil {
		err = file.Chown(int(f.as.Uid), int(f.as.Gid))
	}
	if err == nil {
		err = os.Rename(file.Name(), f.file(name))
	}
	if err != nil {
		_ = os.Remove(file.Name())
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func (f *folder) write(name, text string) error {
	file, err := f.create(name, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// read returns a small file without its last newline, "" when it is not there.
func (f *folder) read(name string) (string, error) {
	text, err := os.ReadFile(f.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSuffix(string(text), "\n"), err
}

// runAs says whom the server of this folder runs as; nil is ourselves.
func runAs(path string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if path != "" {
		for _, p := range []string{filepath.Join(path, "data"), path} {
			if uid, gid, ok := ownerOf(p); ok && uid != 0 {
				return &syscall.Credential{Uid: uid, Gid: gid}, nil
			}
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("we are root and Postgres refuses to run as root: found no user postgres or nobody, want one of them")
}

// userName is for messages.
func userName(as *syscall.Credential) string {
	uid := strconv.Itoa(os.Geteuid())
	if as != nil {
		uid = strconv.FormatUint(uint64(as.Uid), 10)
	}
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "uid " + uid
}

func ownerOf(path string) (uid, gid uint32, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, false
	}
	st := info.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid, true
}

// tempBase is the usual temporary folder, or a public one when the server's user cannot enter it.
func tempBase(as *syscall.Credential) string {
	for _, base := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if dir, err := filepath.EvalSymlinks(base); err == nil && barrier(dir, as) == "" {
			return dir
		}
	}
	return os.TempDir()
}

// barrier returns the folder on the way down to path that the user may not pass, "" when the way is free.
func barrier(path string, as *syscall.Credential) string {
	for as != nil {
		info, err := os.Stat(path)
		if err != nil {
			return path
		}
		need := fs.FileMode(0o001)
		switch st := info.Sys().(*syscall.Stat_t); {
		case st.Uid == as.Uid:
			need = 0o100
		case st.Gid == as.Gid:
			need = 0o010
		}
		if info.Mode()&need == 0 {
			return path
		}
		if path == filepath.Dir(path) {
			return ""
		}
		path = filepath.Dir(path)
	}
	return ""
}
