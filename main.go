// Command terraform-provider-matview serves the Terraform provider.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/matview/terraform-provider-matview/internal/provider"
)

// version is set by the release build (-ldflags "-X main.version=…").
var version = "dev"

const address = "registry.terraform.io/matview/matview"

func main() { os.Exit(run()) }

func run() int {
	debugged := flag.Bool("debug", false, "serve for a debugger: print the TF_REATTACH_PROVIDERS to set and wait for Terraform")
	flag.Parse()
	tune()
	var options []tf6server.ServeOpt
	if *debugged {
		options = append(options, tf6server.WithManagedDebug())
	}
	if err := tf6server.Serve(address, provider.NewServer(version), options...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// tune leaves more of a small machine to Terraform. Without TF_LOG the protocol
// library writes all it traces, a dozen lines a request, and Terraform parses
// each to throw it away. And this process lives for seconds and holds a few
// megabytes: memory is cheaper than collecting it.
func tune() {
	for _, setting := range os.Environ() {
		if strings.HasPrefix(setting, "TF_LOG") {
			return
		}
	}
	_ = os.Setenv("TF_LOG_SDK", "off") // fails for malformed names only
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
