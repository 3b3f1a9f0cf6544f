// Command terraform-provider-matview serves the Terraform provider.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"

	"github.com/matview/terraform-provider-matview/internal/provider"
)

// version is set by the release build (-ldflags "-X main.version=…").
var version = "dev"

const address = "registry.terraform.io/matview/matview"

func main() { os.Exit(run()) }

func run() int {
	debug := flag.Bool("debug", false, "serve for a debugger: print the TF_REATTACH_PROVIDERS to set and wait for Terraform")
	flag.Parse()
	err := providerserver.Serve(context.Background(), provider.New(version), providerserver.ServeOpts{Address: address, Debug: *debug, ProtocolVersion: 6})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
