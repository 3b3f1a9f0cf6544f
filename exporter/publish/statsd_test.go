package publish_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/publish"
)

// statsd is what a sink to StatsD would be: one file, and a line where the exporter
// makes its publishers.
type statsd struct{ conn net.Conn }

func (s *statsd) Destination() string { return "statsd " + s.conn.RemoteAddr().String() }

func (s *statsd) Points(u publish.Update) []publish.Point {
	var points []publish.Point
	add := func(metric, view string, at time.Time, value float64) {
		points = append(points, publish.Point{Metric: metric, View: view, At: at, Values: []float64{value}})
	}
	if !u.Final {
		for _, v := range u.Views {
			if v.StalenessSeconds != nil {
				add("matview.staleness:%g|g|#view:%s", v.Name, u.At, *v.StalenessSeconds)
			}
		}
	}
	for _, a := range u.Attempts {
		add("matview."+a.Outcome+":%g|c|#view:%s", a.View, a.FinishedAt, 1)
	}
	return points
}

func (s *statsd) Send(_ context.Context, points []publish.Point) (n int, err error) {
	var packet bytes.Buffer
	for _, p := range points {
		fmt.Fprintf(&packet, p.Metric+"\n", p.Values[0], p.View)
	}
	if _, err := s.conn.Write(packet.Bytes()); err != nil {
		return 0, fmt.Errorf("write to StatsD: %w", err)
	}
	return len(points), nil
}

// TestAnotherSink: it needs nothing of the others.
func TestAnotherSink(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := newPublisher(t, options{sink: &statsd{conn}})
	p.db.attempts = []publish.Attempt{{View: "v", Outcome: "failed", FinishedAt: p.clock.Now()}}
	p.minute(t)
	packet := make([]byte, 1<<16)
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, _, err := server.ReadFrom(packet)
	if err != nil {
		t.Fatal(err)
	}
	got := string(packet[:n])
	if !strings.Contains(got, "matview.staleness:") || !strings.Contains(got, "matview.failed:1|c|#view:v\n") {
		t.Errorf("%s", got)
	}
	if len(p.db.attempts) != 0 {
		t.Error("the attempt is not confirmed")
	}
}
