package keystone

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/killpoint"
)

// spool is the folder that holds the raw answers to one account's token exchanges, sealed, from the
// moment they arrive: failure model 4.1 and 4.2. All accounts of an installation and all its
// processes may share it. No file is ever written twice: every exchange has a slot with a random
// name of its own, so no process can spoil another's answer.
//
//	id                            the folder's own name and the installation that owns it
//	<account>.<generation>.<slot>.slot     made, filled and synced before the intent
//	<account>.<generation>.<slot>.answer   the same file, renamed once the answer is in it
type spool struct {
	dir     string
	account string
	keys    *keyring
	at      func(point string) error // a test's way to make a step fail; does nothing else
}

const (
	slotSize     = 64 << 10 // of a file, all of it allocated before anything is sent
	spoolMagic   = "meterhouse token answer 1"
	idMagic      = "meterhouse tokens 1"
	slotSuffix   = ".slot"
	answerSuffix = ".answer"
	keptAnswers  = 2 // generations
)

// SpoolError says that the folder of token answers cannot be used: nothing is sent to the vendor
// before that is put right.
type SpoolError struct {
	Dir string
	Err error
}

func (e *SpoolError) Error() string { return fmt.Sprintf("token spool %s: %v", e.Dir, e.Err) }
func (e *SpoolError) Unwrap() error { return e.Err }

func (s *spool) errorf(format string, args ...any) error {
	return &SpoolError{s.dir, fmt.Errorf(format, args...)}
}

// CheckSpool looks whether dir can hold the answers to token exchanges and changes nothing. A dir
// that is not there yet is fine when the folder around it is. The error is a *SpoolError.
func CheckSpool(dir string) error {
	_, err := (&spool{dir: dir}).inspect()
	return err
}

// inspect checks the folder and reads its id: owned by the installation, named name. Both are empty
// when the folder or its id is not made yet.
func (s *spool) inspect() (id spoolID, err error) {
	info, err := os.Lstat(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		around, err := os.Stat(filepath.Dir(s.dir))
		if err != nil || !around.IsDir() {
			return id, s.errorf("there is no folder %s: is its volume mounted? Else make it: mkdir -p -m 700 %[1]s", filepath.Dir(s.dir))
		}
		return id, nil
	}
	if err != nil {
		return id, s.errorf("%w", err)
	}
	if !info.IsDir() {
		return id, s.errorf("is no folder")
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return id, s.errorf("belongs to user %d, want %d, whom this process runs as: chown it", stat.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		return id, s.errorf("has mode %04o, want 0700: chmod 700 %s", mode, s.dir)
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "id"))
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, s.errorf("%w", err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 3 || lines[0] != idMagic {
		return id, s.errorf("its file id is damaged: it may hold a token that is stored nowhere else; restore the file, or move the folder away")
	}
	return spoolID{name: lines[1], installation: lines[2]}, nil
}

// spoolID is what the file id says.
type spoolID struct{ name, installation string }

// open checks the folder, makes what is missing and returns its name.
func (s *spool) open(installation string) (name string, err error) {
	for {
		id, err := s.inspect()
		if err != nil {
			return "", err
		}
		if id.name != "" {
			return id.name, s.owned(id, installation)
		}
		if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", s.errorf("%w", err)
		}
		if err := s.makeID(installation); err != nil {
			return "", s.errorf("make the file id: %w", err)
		}
	}
}

func (s *spool) owned(id spoolID, installation string) error {
	if id.installation != installation {
		return s.errorf("belongs to the installation %s, this one is %s: want a state_dir for each", id.installation, installation)
	}
	return nil
}

// makeID gives the folder its name. Whoever comes first decides it.
func (s *spool) makeID(installation string) error {
	temp := filepath.Join(s.dir, "id."+randomName())
	defer os.Remove(temp)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s\n%s\n%s\n", idMagic, randomName(), installation)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what another process has made meanwhile.
	if err := os.Link(temp, filepath.Join(s.dir, "id")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(syncDir(s.dir), syncDir(filepath.Dir(s.dir)))
}

func randomName() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// slot is a place for one answer.
type slot struct {
	s          *spool
	generation int64
	name       string // random
	file       *os.File
}

// slot makes the place for the answer that will be the given generation, so that a full disk is
// noticed before anything is sent. The caller writes or removes it.
func (s *spool) slot(generation int64) (*slot, error) {
	l := &slot{s: s, generation: generation, name: randomName()}
	noise := make([]byte, slotSize) // zeros might take no room
	_, _ = rand.Read(noise)
	err := s.at("slot")
	if err == nil {
		l.file, err = os.OpenFile(l.path(slotSuffix), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err == nil {
		_, err = l.file.Write(noise)
	}
	if err == nil {
		err = errors.Join(s.at("slot sync"), l.file.Sync(), syncDir(s.dir))
	}
	if err != nil {
		l.remove()
		return nil, s.errorf("no room for the answer, so nothing was sent: %w", err)
	}
	return l, nil
}

func (l *slot) path(suffix string) string {
	return filepath.Join(l.s.dir, fmt.Sprintf("%s%d.%s%s", l.s.prefix(), l.generation, l.name, suffix))
}

// remove takes a slot away that holds nothing.
func (l *slot) remove() {
	if l.file != nil {
		_ = l.file.Close()
		_ = os.Remove(l.path(slotSuffix)) // an empty slot does no harm
	}
}

// prefix begins the names of the account's files.
func (s *spool) prefix() string { return url.PathEscape(s.account) + "." }

// spooled is an answer that was received, with all that is needed to go on from it, also with a
// database that has forgotten the exchange.
type spooled struct {
	generation int64  // that it would be
	slot       string // random name
	path       string
	former     bool // sealed with the former key

	spoolHead
	sent Token
	body []byte
}

// spoolHead is the part of a spooled answer that is neither token nor body.
type spoolHead struct {
	At       time.Time `json:"at"`        // real clock; when it was asked for
	SentAt   time.Time `json:"sent_at"`   // when the token that was sent had been obtained
	SeededAt time.Time `json:"seeded_at"` // of the chain that it continues
	Given    bool      `json:"given"`     // a person gave the token that was sent
	Status   int       `json:"status"`
	Broken   string    `json:"broken,omitempty"` // why the exchange broke; the body is what came before
}

// exchange is the answer as it came.
func (a *spooled) exchange() exchange {
	x := exchange{sent: true, status: a.Status, body: a.body}
	if a.Broken != "" {
		x.err = errors.New(a.Broken)
	}
	return x
}

// write seals an answer into the slot. It is durable when it returns nil.
func (l *slot) write(a spooled) error {
	defer l.file.Close()
	envelope, err := l.s.envelope(l.generation, a)
	if err != nil {
		return err
	}
	if _, err := l.file.WriteAt(envelope, 0); err != nil {
		return err
	}
	err = errors.Join(l.s.at("answer sync"), l.file.Sync())
	if err == nil {
		killpoint.Here(killpoint.SpoolWritten)
		err = l.s.at("answer rename")
	}
	if err == nil {
		err = os.Rename(l.path(slotSuffix), l.path(answerSuffix))
	}
	if err == nil {
		killpoint.Here(killpoint.SpoolRenamed)
		err = errors.Join(l.s.at("answer sync folder"), syncDir(l.s.dir))
	}
	return err
}

// envelope is what a file begins with: a line with the key and the length, and the sealed answer.
// The noise behind it stays.
func (s *spool) envelope(generation int64, a spooled) ([]byte, error) {
	head, err := json.Marshal(a.spoolHead)
	if err != nil {
		return nil, err
	}
	var plain []byte
	for _, part := range [][]byte{head, []byte(a.sent.text()), a.body} {
		plain = binary.AppendUvarint(plain, uint64(len(part)))
		plain = append(plain, part...)
	}
	sealed := s.keys.sealBytes(plain, s.account, generation, fieldSpool)
	envelope := fmt.Appendf(nil, "%s %s %d\n", spoolMagic, s.keys.keyID, len(sealed))
	envelope = append(envelope, sealed...)
	if len(envelope) > slotSize {
		return nil, fmt.Errorf("answer of %d bytes: a slot holds %d", len(envelope), slotSize)
	}
	return envelope, nil
}

// read opens the answer in a file. fs.ErrNotExist says that there is none: a slot that waits.
func (s *spool) read(path string, generation int64) (a spooled, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return a, err
	}
	line, rest, found := bytes.Cut(text, []byte("\n"))
	var keyID string
	var size int
	if found && bytes.HasPrefix(line, []byte(spoolMagic)) {
		_, err = fmt.Sscanf(string(line[len(spoolMagic):]), " %s %d", &keyID, &size)
	}
	if keyID == "" || err != nil || size < 0 || size > len(rest) {
		return a, errors.New("torn: no answer in it")
	}
	plain, err := s.keys.openBytes(rest[:size], s.account, generation, fieldSpool, keyID)
	if err != nil {
		return a, err
	}
	parts := bytes.NewReader(plain)
	var all [3][]byte
	for i := range all {
		n, err := binary.ReadUvarint(parts)
		if err != nil || n > uint64(len(plain)) {
			return a, errors.New("its parts do not fit")
		}
		all[i] = make([]byte, n)
		if _, err := io.ReadFull(parts, all[i]); err != nil {
			return a, errors.New("its parts do not fit")
		}
	}
	if err := json.Unmarshal(all[0], &a.spoolHead); err != nil {
		return a, errors.New("its head is damaged")
	}
	a.sent, a.body = token(string(all[1])), all[2]
	a.former = keyID != s.keys.keyID
	return a, nil
}

// spoolFile is a file of the account, by its name.
type spoolFile struct {
	path       string
	generation int64
	slot       string
	answered   bool // else a slot; it may still hold an answer, if its process died before the rename
}

// files are those of the account, of generations greater than after. A folder that is not there
// has none.
func (s *spool) files(after int64) ([]spoolFile, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, s.errorf("%w", err)
	}
	var found []spoolFile
	for _, e := range entries {
		name, mine := strings.CutPrefix(e.Name(), s.prefix())
		f := spoolFile{path: filepath.Join(s.dir, e.Name())}
		name, f.answered = strings.CutSuffix(name, answerSuffix)
		if !f.answered {
			name, _ = strings.CutSuffix(name, slotSuffix)
		}
		number, slot, _ := strings.Cut(name, ".")
		f.generation, err = strconv.ParseInt(number, 10, 64)
		f.slot = slot
		// Another account's name may begin with ours and a dot: its rest has more dots.
		if mine && err == nil && slot != "" && !strings.Contains(slot, ".") && f.generation > after {
			found = append(found, f)
		}
	}
	return found, nil
}

// spoolProblem is a file that should hold an answer and does not open.
type spoolProblem struct {
	file     spoolFile
	otherKey bool // it may well open, with a key that we do not have
	err      error
}

func (p spoolProblem) Error() string {
	return fmt.Sprintf("token spool: %s is not used: %v", p.file.path, p.err)
}

func (p spoolProblem) Unwrap() error { return p.err }

// answers are those of generations greater than after, the newest first, and the files that cannot
// be used.
func (s *spool) answers(after int64) (found []spooled, problems []spoolProblem, err error) {
	files, err := s.files(after)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		a, err := s.read(f.path, f.generation)
		a.generation, a.slot, a.path = f.generation, f.slot, f.path
		switch {
		case err == nil:
			found = append(found, a)
		case errors.Is(err, fs.ErrNotExist), !f.answered && !errors.Is(err, errOtherKey):
			// Renamed or removed meanwhile, or a slot that waits for its answer.
		default:
			problems = append(problems, spoolProblem{f, errors.Is(err, errOtherKey), err})
		}
	}
	slices.SortFunc(found, func(a, b spooled) int {
		if a.generation != b.generation {
			return int(b.generation - a.generation)
		}
		return b.At.Compare(a.At)
	})
	return found, problems, nil
}

// tidy removes files that are older than the newest two generations. That of the newest one stays:
// it heals a failover or a restore that forgets the generation.
func (s *spool) tidy(newest int64) error {
	files, err := s.files(0)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.generation <= newest-keptAnswers {
			if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return s.errorf("%w", err)
			}
		}
	}
	return nil
}

// rekey seals anew what is sealed with the former key. Each file is replaced at once by its
// successor; repeating does no harm.
func (s *spool) rekey() (n int, err error) {
	found, _, err := s.answers(0)
	if err != nil {
		return 0, err
	}
	for _, a := range found {
		if !a.former {
			continue
		}
		if err := s.replace(a); err != nil {
			return n, s.errorf("seal %s anew: %w", filepath.Base(a.path), err)
		}
		n++
	}
	return n, nil
}

func (s *spool) replace(a spooled) error {
	envelope, err := s.envelope(a.generation, a)
	if err != nil {
		return err
	}
	temp := filepath.Join(s.dir, "rekey."+randomName())
	defer os.Remove(temp)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(envelope)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := s.at("rekey rename"); err != nil {
		return err
	}
	return errors.Join(os.Rename(temp, a.path), syncDir(s.dir))
}

// How an attempt names the place of its answer: folder/slot, several parted by a blank.

func placeOf(folder, slot string) string { return folder + "/" + slot }

// elsewhere are the places of an attempt that are not in the folder.
func elsewhere(a etl.CredentialAttempt, folder string) string {
	var other []string
	for place := range strings.FieldsSeq(a.Spool) {
		if name, _, _ := strings.Cut(place, "/"); folder == "" || name != folder {
			other = append(other, place)
		}
	}
	return strings.Join(other, " ")
}
