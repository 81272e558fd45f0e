package warehousetest

import (
	"context"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Pooler puts a pooler with sessions connections in front of the database at url, and returns the
// URL of the way through it. Like PgBouncer it makes up the process number of a client, lends the
// session that came back last, and cleans none up: named statements and session locks stay in it.
// It lends for a transaction; with whole, for as long as the client stays.
func Pooler(t testing.TB, url string, sessions int, whole bool) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &pooler{ctx: ctx, url: url, whole: whole, free: make(chan struct{}, sessions)}
	t.Cleanup(func() {
		cancel()
		listener.Close()
		p.clients.Wait()
		for _, s := range p.idle {
			s.Conn.Close()
		}
	})
	p.clients.Add(1)
	go func() {
		defer p.clients.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.clients.Add(1)
			go func() {
				defer p.clients.Done()
				defer conn.Close()
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				(&client{pooler: p, backend: pgproto3.NewBackend(conn, conn), conn: conn}).serve()
			}()
		}
	}()
	return through(t, url, listener.Addr().String())
}

func through(t testing.TB, text, address string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	for _, key := range []string{"host", "port"} {
		query.Del(key)
	}
	query.Set("sslmode", "disable")
	u.Host, u.RawQuery = address, query.Encode()
	return u.String()
}

type pooler struct {
	ctx     context.Context // until the test ends
	url     string
	whole   bool
	clients sync.WaitGroup
	free    chan struct{} // a slot per session that is lent

	mu   sync.Mutex
	idle []*pgconn.HijackedConn
}

// lend waits for a session and gives the one that came back last, or a new one.
func (p *pooler) lend() (*pgconn.HijackedConn, error) {
	select {
	case p.free <- struct{}{}:
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.idle) - 1; last >= 0 {
		s := p.idle[last]
		p.idle = p.idle[:last]
		return s, nil
	}
	conn, err := pgconn.Connect(p.ctx, p.url)
	if err != nil {
		<-p.free
		return nil, err
	}
	return conn.Hijack()
}

func (p *pooler) takeBack(s *pgconn.HijackedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, s)
	<-p.free
}

// client is one connection to the pooler.
type client struct {
	pooler  *pooler
	conn    net.Conn
	backend *pgproto3.Backend

	mu      sync.Mutex
	session *pgconn.HijackedConn // nil while none is lent
	asked   int                  // how many ReadyForQuery are to come
}

func (c *client) serve() {
	if !c.greet() {
		return
	}
	for {
		message, err := c.backend.Receive()
		if _, bye := message.(*pgproto3.Terminate); err != nil || bye {
			break
		}
		c.mu.Lock()
		if c.session == nil {
			if c.session, err = c.pooler.lend(); err != nil {
				c.mu.Unlock()
				return
			}
			go c.pump(c.session)
		}
		switch message.(type) {
		case *pgproto3.Query, *pgproto3.Sync:
			c.asked++
		}
		c.session.Frontend.Send(message)
		err = c.session.Frontend.Flush()
		c.mu.Unlock()
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil { // lent as a whole, or in the middle of something: nobody else shall have it
		c.session.Conn.Close()
		<-c.pooler.free
	}
}

// greet lets everybody in.
func (c *client) greet() bool {
	for {
		message, err := c.backend.ReceiveStartupMessage()
		if err != nil {
			return false
		}
		switch message.(type) {
		case *pgproto3.StartupMessage:
			c.backend.Send(&pgproto3.AuthenticationOk{})
			c.backend.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
			c.backend.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
			c.backend.Send(&pgproto3.BackendKeyData{ProcessID: 4_000_000_000, SecretKey: []byte{1, 2, 3, 4}})
			c.backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			return c.backend.Flush() == nil
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := c.conn.Write([]byte("N")); err != nil {
				return false
			}
		default: // to cancel something
			return false
		}
	}
}

// pump passes on what the session answers, until it goes back.
func (c *client) pump(s *pgconn.HijackedConn) {
	for {
		message, err := s.Frontend.Receive()
		if err != nil {
			c.conn.Close()
			return
		}
		ready, isReady := message.(*pgproto3.ReadyForQuery)
		if !isReady {
			c.backend.Send(message)
			if c.backend.Flush() != nil {
				return
			}
			continue
		}
		if c.ready(s, ready) {
			return
		}
	}
}

// ready passes on that the session waits, and takes it away from the client when it may go back.
func (c *client) ready(s *pgconn.HijackedConn, message *pgproto3.ReadyForQuery) (over bool) {
	c.mu.Lock() // what the client asks next waits until it is clear whom
	defer c.mu.Unlock()
	c.asked--
	c.backend.Send(message)
	if c.backend.Flush() != nil {
		return true
	}
	if c.asked > 0 || message.TxStatus != 'I' || c.pooler.whole {
		return false
	}
	c.session = nil
	c.pooler.takeBack(s)
	return true
}
