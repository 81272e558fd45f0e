package fetch

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"meterhouse/etl"
)

const (
	maxInMemory = 4 << 20 // of a body; two of a scope may wait at once, and more scopes beside it
	maxRatio    = 200     // decompressed to received bytes
	ratioFrom   = 1 << 20 // decompressed bytes before the ratio counts
)

// receive reads, hashes and keeps a response's body. Of an answer that is no success, what
// can be had is enough. Its content is that of a contentHash.
func (c *Client) receive(resp *http.Response, limit int64, success bool, call Call) (b etl.Body, content []byte, err error) {
	wire := &counter{r: resp.Body}
	plain, err := decoded(wire, resp.Header.Values("Content-Encoding"), success)
	if err != nil {
		return nil, nil, err
	}
	w, sum := newWriter(c.cfg.SpoolDir), newContentHash(call.Varying)
	w.sum = sum
	_, err = io.Copy(w, discreet(&bounded{r: plain, wire: wire, left: limit, limit: limit}, call.Secret))
	if err != nil && (success || errors.Is(err, errSpool)) {
		w.discard()
		return nil, nil, err
	}
	return w.finish(), sum.contentSum(), nil
}

// discreet stars a secret out of what r says: answers are kept, and refused records quoted. A slash may
// come escaped, as PHP writes it. An end of the secret is enough to be starred.
func discreet(r io.Reader, secret string) io.Reader {
	if secret == "" {
		return r
	}
	piece := secret[max(0, len(secret)-starPiece):]
	s := &starred{r: r, secret: secret, keep: len(secret) - 1 + strings.Count(secret, "/"), pieces: [][]byte{[]byte(piece)}}
	if escaped := strings.ReplaceAll(piece, "/", `\/`); escaped != piece {
		s.pieces = append(s.pieces, []byte(escaped))
	}
	return s
}

// starPiece is how much of the end of a secret is looked for: as much as can be searched fast.
const starPiece = 24

type starred struct {
	r      io.Reader
	secret string
	keep   int      // bytes that may be the beginning of one
	pieces [][]byte // its end, as it may be spelled
	room   []byte
	buf    []byte // of room
	ready  int    // bytes of buf to hand out
	err    error
}

func (s *starred) Read(p []byte) (int, error) {
	for s.ready == 0 && s.err == nil {
		s.fill()
	}
	if s.ready == 0 {
		return 0, s.err
	}
	n := copy(p, s.buf[:s.ready])
	s.buf, s.ready = s.buf[n:], s.ready-n
	return n, nil
}

func (s *starred) fill() {
	if s.room == nil {
		s.room = make([]byte, s.keep+64<<10)
	}
	kept := copy(s.room, s.buf) // at most s.keep: all that was ready has been read
	n, err := s.r.Read(s.room[kept:])
	s.buf, s.err = s.room[:kept+n], err
	for _, piece := range s.pieces {
		for from := 0; ; {
			at := bytes.Index(s.buf[from:], piece)
			if at < 0 {
				break
			}
			from += at + len(piece)
			s.star(from)
		}
	}
	s.ready = len(s.buf)
	if s.err == nil {
		s.ready = max(0, len(s.buf)-s.keep)
	}
}

// star stars as much of the secret as ends at end.
func (s *starred) star(end int) {
	slash := false // the byte behind was one
	for i, j := end-1, len(s.secret)-1; i >= 0; i-- {
		switch {
		case slash && s.buf[i] == '\\':
			slash = false
		case j >= 0 && s.buf[i] == s.secret[j]:
			slash = s.secret[j] == '/'
			j--
		default:
			return
		}
		s.buf[i] = '*'
	}
}

// decoded undoes the one layer of encoding we asked for.
func decoded(wire *counter, encodings []string, success bool) (io.Reader, error) {
	switch encoding := strings.ToLower(strings.TrimSpace(strings.Join(encodings, ","))); encoding {
	case "", "identity":
		return wire, nil
	case "gzip":
	default:
		if !success {
			return wire, nil
		}
		return nil, refuse("encoding_unsupported", etl.ErrContract, "Content-Encoding is %q, want gzip or identity", excerpt(encoding))
	}
	buffered := bufio.NewReaderSize(wire, 4<<10)
	if _, err := buffered.Peek(1); err == io.EOF {
		return buffered, nil // no body at all
	}
	if magic, _ := buffered.Peek(2); !success && string(magic) != "\x1f\x8b" {
		return buffered, nil // an error page of some gateway under the headers of another answer: its status is what counts
	}
	unzip, err := gzip.NewReader(buffered)
	switch {
	case err == nil:
	case !success:
		return strings.NewReader(""), nil
	case errors.Is(err, gzip.ErrHeader):
		return nil, refuse("encoding_unsupported", etl.ErrContract, "Content-Encoding is gzip, but the body is not")
	default:
		return nil, broken(err)
	}
	return unzip, nil
}

// broken is a body that ended before its end.
func broken(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return transient("body_truncated", etl.ErrUnavailable, "the body broke off: %s", err)
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// bounded passes a body on while it keeps to the limits of size and ratio.
type bounded struct {
	r     io.Reader
	wire  *counter
	left  int64
	limit int64
	total int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one byte more than allowed tells a full body from too large a one
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	b.total += int64(n)
	switch {
	case b.left < 0:
		return 0, refuse("body_too_large", etl.ErrContract, "more than %d bytes", b.limit)
	case b.total > ratioFrom && b.total/maxRatio > b.wire.n:
		return 0, refuse("body_too_large", etl.ErrContract, "%d bytes out of %d received: more than %d to 1", b.total, b.wire.n, maxRatio)
	case err != nil && err != io.EOF:
		return n, broken(err)
	}
	return n, err
}

var errSpool = errors.New("spool the body")

// writer hashes what is written and keeps it as it is: in memory first, then in a file. Nothing is
// compressed here, because most bodies bring no news and are never landed.
type writer struct {
	dir  string
	mem  chunks
	file *os.File
	sum  hash.Hash // nil: nobody asks for it
	size int64
	ends ends
}

func newWriter(dir string) *writer { return &writer{dir: dir, sum: sha256.New()} }

func (w *writer) Write(p []byte) (int, error) {
	if w.sum != nil {
		w.sum.Write(p)
	}
	w.ends.see(p, w.size)
	if w.file == nil && w.size+int64(len(p)) > maxInMemory {
		if err := w.spill(); err != nil {
			return 0, fmt.Errorf("%w: %w", errSpool, err)
		}
	}
	w.size += int64(len(p))
	if w.file == nil {
		w.mem.append(p)
		return len(p), nil
	}
	n, err := w.file.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return n, err
}

// spill moves the body into a file. It loses its name at once, so that not even a crash leaves it behind.
func (w *writer) spill() (err error) {
	if w.file, err = os.CreateTemp(w.dir, "meterhouse-body-*"); err != nil { // 0600
		return err
	}
	if err := os.Remove(w.file.Name()); err != nil {
		return err
	}
	for _, c := range w.mem {
		if _, err := w.file.Write(c); err != nil {
			return err
		}
	}
	w.mem.free()
	return nil
}

func (w *writer) discard() {
	w.mem.free()
	if w.file != nil {
		w.file.Close()
	}
}

func (w *writer) finish() etl.Body {
	b := &body{dir: w.dir, mem: w.mem, file: w.file, size: w.size, ends: w.ends}
	if w.sum != nil {
		w.sum.Sum(b.sum[:0])
	}
	return b
}

// chunks hold a body in memory. They go from one body to the next, so that bodies make no garbage.
type chunks [][]byte

const chunkSize = 64 << 10

var chunkPool = sync.Pool{New: func() any { return new([chunkSize]byte) }}

func (c *chunks) append(p []byte) {
	for len(p) > 0 {
		last := len(*c) - 1
		if last < 0 || len((*c)[last]) == chunkSize {
			*c = append(*c, chunkPool.Get().(*[chunkSize]byte)[:0])
			last++
		}
		n := min(len(p), chunkSize-len((*c)[last]))
		(*c)[last] = append((*c)[last], p[:n]...)
		p = p[n:]
	}
}

func (c *chunks) free() {
	for _, chunk := range *c {
		chunkPool.Put((*[chunkSize]byte)(chunk[:chunkSize]))
	}
	*c = nil
}

// ends are the first and the last byte of a body that are neither blank nor of a byte order mark; 0
// while there is none.
type ends struct{ first, last byte }

const (
	blanks        = " \t\r\n"
	byteOrderMark = "\xef\xbb\xbf"
)

// see takes in the next piece of a body, which begins at offset.
func (e *ends) see(p []byte, offset int64) {
	for len(p) > 0 && offset < int64(len(byteOrderMark)) && p[0] == byteOrderMark[offset] {
		p, offset = p[1:], offset+1
	}
	if e.first == 0 {
		p = bytes.TrimLeft(p, blanks)
	}
	p = bytes.TrimRight(p, blanks)
	if len(p) == 0 {
		return
	}
	if e.first == 0 {
		e.first = p[0]
	}
	e.last = p[len(p)-1]
}

// NewBody is a body that did not come over the wire, for tests and replays.
func NewBody(content []byte) etl.Body {
	w := newWriter("")
	// It cannot fail in memory; beyond that the temporary folder must be writable.
	if _, err := w.Write(content); err != nil {
		panic("fetch: " + err.Error())
	}
	return w.finish()
}

// body implements etl.Body.
type body struct {
	dir  string // where it goes when it is too large for memory
	size int64
	sum  [32]byte
	ends ends

	mu     sync.Mutex
	mem    chunks
	file   *os.File // without a name; nil while it is in memory
	closed bool
}

var errClosed = errors.New("the body was closed")

// ReadAt reads the body as it is. A closed one cannot be read: its memory may be another's by now.
func (b *body) ReadAt(p []byte, at int64) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, errClosed
	case b.file != nil:
		return b.file.ReadAt(p, at)
	}
	for n < len(p) && at < b.size {
		m := copy(p[n:], b.mem[at/chunkSize][at%chunkSize:])
		n, at = n+m, at+int64(m)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (b *body) Open() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	plain := io.NewSectionReader(b, 0, b.size)
	if b.file == nil {
		return io.NopCloser(plain), nil
	}
	return io.NopCloser(bufio.NewReaderSize(plain, chunkSize)), nil
}

// encoders are kept because one is larger than most bodies.
var encoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("fetch: " + err.Error()) // options are constants
	}
	return e
}}

// Zstd compresses the body into as much memory as a body may take, and a file beyond that.
func (b *body) Zstd() (etl.Frame, error) {
	plain, err := b.Open()
	if err != nil {
		return nil, err
	}
	zip := encoders.Get().(*zstd.Encoder)
	defer func() {
		zip.Reset(nil)
		encoders.Put(zip)
	}()
	packed := &writer{dir: b.dir}
	zip.Reset(packed)
	_, err = io.Copy(zip, plain)
	if err == nil {
		err = zip.Close()
	}
	if err != nil {
		packed.discard()
		return nil, err
	}
	whole := packed.finish().(*body)
	return &frame{io.NewSectionReader(whole, 0, whole.size), whole}, nil
}

// frame implements etl.Frame.
type frame struct {
	io.Reader
	whole *body
}

func (f *frame) Size() int64  { return f.whole.size }
func (f *frame) Close() error { return f.whole.Close() }

func (b *body) SHA256() [32]byte { return b.sum }
func (b *body) Size() int64      { return b.size }

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.mem.free()
	if b.file != nil {
		return b.file.Close()
	}
	return nil
}
