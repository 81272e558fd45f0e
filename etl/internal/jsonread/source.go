package jsonread

import (
	"errors"
	"io"

	"meterhouse/etl"
)

var byteOrderMark = []byte("\xef\xbb\xbf")

// source feeds the parser: it strips the byte order mark, remembers how the input ended, and stops
// a token that would not fit into memory.
type source struct {
	r       io.Reader
	owner   *Reader
	err     error // sticky: io.EOF or why reading failed
	started bool
	bom     bool
	head    []byte // read while looking for the mark, not yet handed out
	total   int64  // bytes handed out
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if s.err == nil && s.total-s.owner.dec.InputOffset() > maxToken {
		s.err = etl.Rejected("body_too_large", "one token or run of blanks of more than %d MiB", maxToken>>20)
	}
	return s.raw(p)
}

func (s *source) raw(p []byte) (int, error) {
	if !s.started {
		s.start()
	}
	if len(s.head) > 0 {
		n := copy(p, s.head)
		s.head = s.head[n:]
		s.total += int64(n)
		return n, nil
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.total += int64(n)
	s.err = err
	if n > 0 {
		return n, nil // the error comes with the next call
	}
	return 0, err
}

func (s *source) start() {
	s.started = true
	var buf [3]byte
	n := 0
	for n < len(buf) && s.err == nil {
		var m int
		m, s.err = s.r.Read(buf[n:])
		n += m
	}
	s.head = buf[:n]
	if string(s.head) == string(byteOrderMark) {
		s.bom, s.head = true, nil
	}
}

// reject is the input's own failure as an error of ours.
func (s *source) reject() error {
	var own *etl.RejectError
	if errors.As(s.err, &own) {
		return own
	}
	return &etl.RejectError{Reason: "body_truncated", Detail: "read the body: " + s.err.Error(), Class: etl.ErrUnavailable}
}
