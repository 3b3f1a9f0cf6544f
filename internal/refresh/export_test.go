package refresh

import "time"

// SetCommitLag is for tests whose sessions count their changes at once.
func (r *Refresher) SetCommitLag(lag time.Duration) { r.commitLag = lag }
