package api_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load asks a server over kept connections, as fast as it answers. It parses no
// more than it must, so that on a machine shared with the server what is
// measured is the server.
type load struct {
	address     string
	connections int
	status      string   // expected of every answer, as "200"
	requests    [][]byte // in turns
}

func request(path string, headers ...string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: bench\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n")
}

// run gives the answers a second.
func (l load) run(t testing.TB, d time.Duration) float64 {
	t.Helper()
	var answers atomic.Int64
	var clients sync.WaitGroup
	var stop atomic.Bool
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	start := time.Now()
	for c := range l.connections {
		clients.Go(func() {
			n, err := l.client(c, &stop)
			answers.Add(n)
			if err != nil {
				t.Errorf("client: %v", err)
			}
		})
	}
	clients.Wait()
	return float64(answers.Load()) / time.Since(start).Seconds()
}

func (l load) client(first int, stop *atomic.Bool) (answers int64, err error) {
	conn, err := net.Dial("tcp", l.address) //nolint:noctx // it ends with its test
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for i := first; !stop.Load(); i += l.connections {
		if _, err := conn.Write(l.requests[i%len(l.requests)]); err != nil {
			return answers, err
		}
		if err := readAnswer(reader, l.status); err != nil {
			return answers, err
		}
		answers++
	}
	return answers, nil
}

func readAnswer(reader *bufio.Reader, status string) error {
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || string(line[9:12]) != status {
		return fmt.Errorf("answered %s", bytes.TrimSpace(line))
	}
	length := 0
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if value, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	_, err = io.CopyN(io.Discard, reader, int64(length))
	return err
}

// slowClients open connections that send a byte of a request now and then, or
// ask and do not read, until stop is called.
func slowClients(t testing.TB, address string, n int, path string) (stop func()) {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		conn, err := net.Dial("tcp", address) //nolint:noctx // it ends with its test
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	done := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		text := request(path, "X-Slow: "+strings.Repeat("x", 1000))
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for sent := 0; ; sent++ {
			for i, conn := range conns {
				if i%2 == 0 {
					_, _ = conn.Write(text[sent%len(text):][:1]) // it may be cut off by now
				} else if sent == 0 {
					_, _ = conn.Write(request(path))
				}
			}
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	})
	return func() {
		close(done)
		sending.Wait()
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
}
