// Package honesty holds nothing but the test of the one promise that stands over
// everything: every transaction that was visible to a new snapshot at the reported
// data_as_of is in the view, whatever crashes, blocks, or is done behind our back.
//
// A writer bumps a heartbeat every few milliseconds; views of every shape carry
// it. A storm of seeded events goes over them: refreshes by every method, by our
// exporters and by hand, under every isolation level and with locks held against
// them; drops, renames, truncations; backends terminated, exporters killed and
// frozen, the server crashed. All the while a checker compares what the freshness
// view says with what is in each view.
//
// The same seed gives the same events in the same order, though not the same
// interleaving. A failure prints the seed and what was going on at the time.
//
//	MATVIEW_HONESTY_EVENTS=1000   how many events; the default
//	MATVIEW_HONESTY_SEED=1        which ones
//	SOAK=10m make soak            for that long, with a seed of its own
package honesty
