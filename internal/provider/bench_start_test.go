package provider

import (
	"bufio"
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// What users may expect of a provider that has not connected to anything.
const (
	startLimit = 100 * time.Millisecond
	sizeLimit  = 40 << 20
)

// BenchmarkStart measures from starting the program, as `make build` builds it,
// until it serves, and until it is configured, without a database.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	build := osexec.CommandContext(b.Context(), "make", "--no-print-directory", "build", "BIN="+dir)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	program := filepath.Join(dir, "terraform-provider-matview")
	info, err := os.Stat(program)
	if err != nil {
		b.Fatal(err)
	}
	var times []time.Duration
	for b.Loop() {
		start := time.Now()
		handshake(b, program)
		configureAnew(b)
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	median := times[len(times)/2]
	fmt.Printf("\nbench: start ours=%s reference=%s ratio=%.2f\n", median.Round(100*time.Microsecond), startLimit, float64(median)/float64(startLimit))
	fmt.Printf("bench: size ours=%d reference=%d ratio=%.2f\n", info.Size(), sizeLimit, float64(info.Size())/sizeLimit)
}

// handshake starts the program as Terraform does and waits for the line that says
// where it serves.
func handshake(b *testing.B, program string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	cmd := osexec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), "TF_PLUGIN_MAGIC_COOKIE=d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2", "PLUGIN_PROTOCOL_VERSIONS=6")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil || strings.Count(line, "|") < 4 {
		b.Fatalf("it says %q, %v", line, err)
	}
}

// configureAnew is what Terraform asks for next, in this process.
func configureAnew(b *testing.B) {
	b.Helper()
	s := newServer()
	schema, err := s.GetProviderSchema(b.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		b.Fatal(err)
	}
	typ := schema.Provider.ValueType()
	attributes := map[string]tftypes.Value{}
	for name, t := range typ.(tftypes.Object).AttributeTypes {
		attributes[name] = tftypes.NewValue(t, nil)
	}
	config, err := tfprotov6.NewDynamicValue(typ, tftypes.NewValue(typ, attributes))
	if err != nil {
		b.Fatal(err)
	}
	resp, err := s.ConfigureProvider(b.Context(), &tfprotov6.ConfigureProviderRequest{Config: &config})
	if err != nil || len(resp.Diagnostics) > 0 {
		b.Fatalf("%v %v", err, resp)
	}
}
