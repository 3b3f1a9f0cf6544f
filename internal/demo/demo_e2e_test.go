//go:build e2e

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestE2EDemo runs the demo, whose every step asserts what it shows, and looks
// at what it leaves behind.
func TestE2EDemo(t *testing.T) {
	// Not t.TempDir: the server's user must reach it.
	dir, err := os.MkdirTemp("", "demo-test-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	if err := run(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "matview-demo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
