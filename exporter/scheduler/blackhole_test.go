package scheduler_test

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// muted is a proxy whose open connections can be made to swallow everything,
// as a broken network does, while new ones work.
type muted struct {
	url    string
	mu     sync.Mutex
	silent []chan struct{}
}

func blackhole(t *testing.T, target string) *muted {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p := &muted{}
	server := u.Host
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.carry(client, server)
		}
	}()
	u.Host = listener.Addr().String()
	p.url = u.String()
	return p
}

func (p *muted) carry(client net.Conn, server string) {
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		_ = client.Close()
		return
	}
	silent := make(chan struct{})
	p.mu.Lock()
	p.silent = append(p.silent, silent)
	p.mu.Unlock()
	// To the server: to its end. To the client: nothing more once it is silent,
	// not even that it has ended.
	go func() { _, _ = io.Copy(upstream, client); _ = upstream.Close() }()
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := upstream.Read(buffer)
			select {
			case <-silent:
				return
			default:
			}
			if n > 0 {
				_, _ = client.Write(buffer[:n])
			}
			if err != nil {
				_ = client.Close()
				return
			}
		}
	}()
}

func (p *muted) mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.silent {
		close(s)
	}
	p.silent = nil
}
