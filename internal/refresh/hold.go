package refresh

import "context"

// KeepAlive says that a claimed attempt lives while its process prepares for it,
// for as long as that takes; release ends it, before [Refresher.Refresh] goes on.
// The context ends where the attempt is found to be over.
func (r *Refresher) KeepAlive(ctx context.Context, attempt int64) (alive context.Context, release func()) {
	alive, cancel := context.WithCancelCause(ctx)
	r.beat.add(attempt, cancel)
	return alive, func() {
		r.beat.remove(attempt)
		cancel(nil)
	}
}
