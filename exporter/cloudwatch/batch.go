package cloudwatch

import (
	"context"
	"time"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// batch is a minute that is claimed. Its attempts stay in the history, where
// whoever claims the next minute finds them unless we confirm that they are
// published; what is known of the views now is kept here, or would be lost.
type batch struct {
	*Claimed
	data   []datum // all of it
	gauges []datum // that without the attempts
}

// confirmTimeout bounds the confirmation.
const confirmTimeout = 5 * time.Second

func (p *Publisher) addClaimed(c *Claimed, views []freshness.View, away bool) {
	p.replace(&batch{Claimed: c, data: p.now(c.Attempts, views, away), gauges: p.now(nil, views, away)})
}

// replace has b sent next. One that is still waiting to be is too late for its
// attempts.
func (p *Publisher) replace(b *batch) {
	if late := p.claimed.Swap(b); late != nil {
		p.backlog.add(late.gauges)
	}
}

// flushClaimed sends a batch and confirms it, unless what is older could not be
// sent. Another process may have the attempts when the claim has run out: they
// are not sent after that.
func (p *Publisher) flushClaimed(ctx context.Context, b *batch, send bool) {
	ctx, cancel := context.WithDeadline(ctx, b.Until)
	defer cancel()
	now := p.Now()
	data := b.data[:0:0]
	for _, d := range b.data {
		if now.Sub(d.at) <= maxAge {
			data = append(data, d)
		}
	}
	p.Counts.dropped.Add(float64(len(b.data) - len(data)))
	send = send && ctx.Err() == nil
	for send && len(data) > 0 {
		var err error
		data, err = p.sendSome(ctx, data)
		send = err == nil
	}
	if !send {
		p.backlog.add(b.gauges) // perhaps some of them again, which changes no maximum
		return
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), confirmTimeout)
	defer cancel()
	if err := b.Confirm(ctx); err != nil {
		p.Logger.Warn("published to CloudWatch", "err", err)
	}
}
