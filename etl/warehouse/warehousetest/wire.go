package warehousetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Message is one message of a client to Postgres.
type Message struct {
	Kind byte   // as in the protocol: Q a simple query, P a statement to be prepared, d a piece of a COPY …
	SQL  string // of Q and P
	Name string // of the prepared statement, with P and B
}

// IsCommit tells whether the message ends a whole transaction, as pgx does it.
func (m Message) IsCommit() bool { return m.Kind == 'Q' && m.SQL == "commit" }

// Verdict says what becomes of a message, and with all but Pass of its connection.
type Verdict int

// What can become of a message.
const (
	Pass        Verdict = iota
	CutBefore           // the connection is closed, the server never gets the message
	CutDuring           // the server gets it, and at the same moment the connection is closed
	CutAfter            // the server gets it and answers, then the connection is closed without the answer: for what is answered
	CutAsPooler         // as CutAfter, with the last word of a pooler that has lost its server: an error like one of Postgres
	Swallow             // from now on nothing passes in either direction, and nobody is told
)

// Wire is a way to a database that a test can cut in the middle of a conversation. It ends with the
// test. Its methods are safe for concurrent use.
type Wire struct {
	URL   string // of the database by this way
	judge func(Message) Verdict

	mu    sync.Mutex
	conns map[net.Conn]bool
	hole  bool
	ended bool
}

// NewWire leads to the database at url; judge, unless it is nil, decides about every message of every
// client after its greeting. It is called by many goroutines at once.
func NewWire(t testing.TB, url string, judge func(Message) Verdict) *Wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if judge == nil {
		judge = func(Message) Verdict { return Pass }
	}
	w := &Wire{URL: through(t, url, listener.Addr().String()), judge: judge, conns: map[net.Conn]bool{}}
	backend := hostOf(t, url)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.serve(client, backend) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		w.Cut()
		all.Wait()
	})
	return w
}

func hostOf(t testing.TB, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// Hole makes the way a black hole: connections stay, new ones are accepted, and nothing passes.
func (w *Wire) Hole() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hole = true
}

// Cut closes every connection. The way is open again afterwards.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hole = false
	for c := range w.conns {
		c.Close()
	}
}

func (w *Wire) isHole() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hole
}

// keep remembers an open connection, for Cut; false when it is too late for it.
func (w *Wire) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		c.Close()
		return false
	}
	w.conns[c] = true
	return true
}

func (w *Wire) forget(c net.Conn) {
	c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

const sslRequest = 80877103

func (w *Wire) serve(client net.Conn, backend string) {
	if !w.keep(client) {
		return
	}
	defer w.forget(client)
	greeting, err := readSized(client, nil)
	if err != nil || w.isHole() {
		io.Copy(io.Discard, client) // until it is closed
		return
	}
	if len(greeting) == 8 && binary.BigEndian.Uint32(greeting[4:]) == sslRequest {
		if _, err := client.Write([]byte("N")); err != nil {
			return
		}
		if greeting, err = readSized(client, nil); err != nil {
			return
		}
	}
	server, err := net.Dial("tcp", backend)
	if err != nil || !w.keep(server) {
		return
	}
	defer w.forget(server)
	if _, err := server.Write(greeting); err != nil {
		return
	}

	answers := &answers{client: client, passed: make(chan struct{}, 1)}
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(answers, &holed{server, w})
		answers.end()
	})
	defer back.Wait()
	defer server.Close()

	head := make([]byte, 1)
	for {
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		message, err := readSized(client, head)
		if err != nil {
			return
		}
		if w.isHole() {
			io.Copy(io.Discard, client)
			return
		}
		verdict := w.judge(decode(message))
		switch verdict {
		case CutBefore:
			return
		case Swallow:
			answers.stop()
			io.Copy(io.Discard, client)
			return
		case CutDuring, CutAfter, CutAsPooler:
			answers.stop()
			if verdict == CutDuring {
				client.Close()
			}
			if _, err := server.Write(message); err != nil {
				return
			}
			if verdict == CutDuring {
				_ = server.(*net.TCPConn).CloseWrite() // it sees the end, behind the message
			}
			<-answers.passed // the server has done it, or gone
			if verdict == CutAsPooler {
				_, _ = client.Write(serverGone)
			}
			return
		}
		if _, err := server.Write(message); err != nil {
			return
		}
	}
}

// serverGone is what PgBouncer says to a client whose server went.
var serverGone = func() []byte {
	fields := []byte("SFATAL\x00VFATAL\x00C08P01\x00Mserver conn crashed?\x00\x00")
	return append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(len(fields)+4)), fields...)
}()

// readSized reads a message that tells its length, behind its head.
func readSized(r io.Reader, head []byte) ([]byte, error) {
	message := append(bytes.Clone(head), 0, 0, 0, 0)
	if _, err := io.ReadFull(r, message[len(head):]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(message[len(head):]))
	if size < 4 || size > 1<<30 {
		return nil, errors.New("no message of Postgres")
	}
	message = append(message, make([]byte, size-4)...)
	_, err := io.ReadFull(r, message[len(head)+4:])
	return message, err
}

func decode(message []byte) Message {
	m := Message{Kind: message[0]}
	body := message[5:]
	if m.Kind == 'B' {
		_, body, _ = bytes.Cut(body, []byte{0}) // the portal's name
	}
	if m.Kind == 'P' || m.Kind == 'B' {
		var name []byte
		name, body, _ = bytes.Cut(body, []byte{0})
		m.Name = string(name)
	}
	if m.Kind == 'Q' || m.Kind == 'P' {
		sql, _, _ := bytes.Cut(body, []byte{0})
		m.SQL = string(sql)
	}
	return m
}

// answers passes on what a server says until it is stopped; then it tells that something came.
type answers struct {
	client net.Conn
	passed chan struct{}

	mu      sync.Mutex
	stopped bool
}

func (a *answers) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
}

// end is the end of the server's connection, and so of the client's.
func (a *answers) end() {
	a.client.Close()
	close(a.passed)
}

func (a *answers) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stopped {
		return a.client.Write(p)
	}
	select {
	case a.passed <- struct{}{}:
	default:
	}
	return len(p), nil
}

// holed reads from a server and keeps what comes while the way is a black hole.
type holed struct {
	net.Conn
	wire *Wire
}

func (h *holed) Read(p []byte) (int, error) {
	for {
		n, err := h.Conn.Read(p)
		if err != nil || !h.wire.isHole() {
			return n, err
		}
	}
}
