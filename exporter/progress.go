package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/term"

	"github.com/matview/terraform-provider-matview/internal/store"
)

// progress shows which views are being refreshed, for how long, how long that
// usually takes, and which session holds the lock that one waits for. On a terminal
// it redraws that below what has been printed; elsewhere it prints a line for each wait.
type progress struct {
	pool        *pgxpool.Pool
	schema      string
	attemptedBy string
	stdout      io.Writer
	stderr      io.Writer
	terminal    *os.File // nil: not on one

	mu      sync.Mutex
	running []*underWay
	usual   map[string]time.Duration
	drawn   int // lines
}

type underWay struct {
	view  string
	since time.Time
	wait  string // for which sessions
}

const (
	drawInterval = 200 * time.Millisecond
	waitInterval = time.Second
)

func newProgress(a *app, pool *pgxpool.Pool) *progress {
	p := &progress{pool: pool, schema: a.schema, attemptedBy: attemptedBy(), stdout: a.stdout, stderr: a.stderr}
	file, ok := a.stdout.(*os.File)
	if ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb" { //nolint:gosec // a descriptor is small
		p.terminal = file
	}
	return p
}

// watch keeps what is shown up to date until stop is called, which removes it.
func (p *progress) watch(ctx context.Context, views []string) (stop func()) {
	p.expect(ctx, views)
	ctx, cancel := context.WithCancel(ctx)
	var looping sync.WaitGroup
	looping.Go(func() { every(ctx, waitInterval, func() { p.readWaits(ctx) }) })
	if p.terminal != nil {
		looping.Go(func() { every(ctx, drawInterval, func() { p.print(nil, "") }) })
	}
	return func() {
		cancel()
		looping.Wait()
	}
}

func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

func (p *progress) begin(view string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = append(p.running, &underWay{view: view, since: time.Now()})
	p.draw()
}

// end removes the view and prints a line about it.
func (p *progress) end(view string, to io.Writer, line string) {
	p.mu.Lock()
	for i, r := range p.running {
		if r.view == view {
			p.running = append(p.running[:i], p.running[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	p.print(to, line)
}

// print writes a line above what is drawn, and redraws that.
func (p *progress) print(to io.Writer, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	if to != nil {
		fmt.Fprintln(to, line)
	}
	p.draw()
}

func (p *progress) erase() {
	if p.drawn > 0 {
		fmt.Fprintf(p.terminal, "\x1b[%dA\x1b[J", p.drawn) // up, and clear to the end
		p.drawn = 0
	}
}

// draw truncates each line to the width of the terminal, since a line that wraps
// could not be erased.
func (p *progress) draw() {
	if p.terminal == nil {
		return
	}
	p.erase()
	width, _, err := term.GetSize(int(p.terminal.Fd())) //nolint:gosec // a descriptor is small
	if err != nil || width <= 1 {
		width = 80
	}
	var b strings.Builder
	for _, r := range p.running {
		line := fmt.Sprintf("%s: refreshing for %s", r.view, seconds(time.Since(r.since).Truncate(100*time.Millisecond).Seconds()))
		if usual := p.usual[r.view]; usual > 0 {
			line += ", usually " + seconds(usual.Seconds())
		}
		if r.wait != "" {
			line += ", " + r.wait
		}
		if runes := []rune(line); len(runes) >= width {
			line = string(runes[:width-2]) + "…"
		}
		b.WriteString(line + "\n")
	}
	fmt.Fprint(p.terminal, b.String())
	p.drawn = len(p.running)
}

// expect reads how long the views usually take: not knowing is no error.
func (p *progress) expect(ctx context.Context, views []string) {
	if p.terminal == nil {
		return
	}
	p.usual, _ = store.New(p.schema).MedianDurations(ctx, p.pool, views)
}

// readWaits asks, on a connection of its own, whom the refreshes wait for.
func (p *progress) readWaits(ctx context.Context) {
	blocked, err := store.New(p.schema).BlockedAttempts(ctx, p.pool, p.attemptedBy)
	if err != nil {
		return // the refreshes themselves will say what is wrong
	}
	waits := map[string]string{}
	for _, b := range blocked {
		waits[b.ViewName] = "waits for " + b.Blockers
	}
	p.mu.Lock()
	var news []string
	for _, r := range p.running {
		if wait := waits[r.view]; wait != r.wait {
			r.wait = wait
			if wait != "" {
				news = append(news, r.view+": "+wait)
			}
		}
	}
	p.mu.Unlock()
	if p.terminal == nil {
		for _, line := range news {
			p.print(p.stderr, line)
		}
	}
}
