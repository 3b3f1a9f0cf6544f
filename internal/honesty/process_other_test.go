//go:build !linux

package honesty

import "os/exec"

// dieWithUs does nothing: t.Cleanup ends the processes of a test that ends.
func dieWithUs(*exec.Cmd) {}
