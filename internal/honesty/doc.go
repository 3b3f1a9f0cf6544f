// Package honesty holds only the test of the promise that comes before all others:
// every transaction that was visible to a new snapshot at the reported data_as_of is
// in the view, even if something crashes, blocks, or changes outside our programs.
//
// A writer bumps a heartbeat every few milliseconds, and views of every shape carry
// it. A workload of random events runs over them: refreshes by every method, by our
// exporters and by other programs, at every isolation level and against locks;
// drops, renames, truncations; terminated backends, killed and frozen exporters,
// crashes of the server. Meanwhile a checker compares what the freshness view reports
// with what is in each view.
//
// The same seed gives the same events in the same order, but not the same
// interleaving. A failure prints the seed and the latest events.
//
//	MATVIEW_HONESTY_EVENTS=1000   number of events; the default
//	MATVIEW_HONESTY_SEED=1        seed of the events
//	SOAK=10m make soak            runs for that long, with a random seed
package honesty
