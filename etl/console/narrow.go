package console

import (
	"net"
	"sync"
)

// narrow lets in so many connections at a time. Others wait outside: whoever opens very many takes the console away, but
// not the files and the memory of the process that loads.
type narrow struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newNarrow(l net.Listener, most int) *narrow {
	return &narrow{Listener: l, places: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits for a place, then for a connection.
func (n *narrow) Accept() (net.Conn, error) {
	select {
	case n.places <- struct{}{}:
	case <-n.closed:
		return nil, net.ErrClosed
	}
	conn, err := n.Listener.Accept()
	if err != nil {
		<-n.places
		return nil, err
	}
	return &placed{Conn: conn, leave: sync.OnceFunc(func() { <-n.places })}, nil
}

// Close also ends waiting for a place.
func (n *narrow) Close() error {
	n.once.Do(func() { close(n.closed) })
	return n.Listener.Close()
}

// placed is a connection that frees its place.
type placed struct {
	net.Conn
	leave func()
}

func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}

// CloseWrite lets the server say that it is done before it hangs up, or a caller that still writes would never read
// the answer.
func (p *placed) CloseWrite() error {
	if half, can := p.Conn.(interface{ CloseWrite() error }); can {
		return half.CloseWrite()
	}
	return nil
}
