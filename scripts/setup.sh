#!/usr/bin/env bash
# Makes sure of everything that `make test` needs beside Go's own modules.
# PostgreSQL is not among it: internal/postgrestest finds or installs that.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
source scripts/need.sh

check_go() {
  local wanted
  wanted=$(sed -n 's/^go //p' go.mod)
  command -v go >/dev/null || fail "please install Go $wanted or later: https://go.dev/doc/install"
  # An older Go either fetches the newer one by itself or refuses the module.
  go list -m >/dev/null || fail "please install Go $wanted or later (this is $(go version)): https://go.dev/doc/install"
}

# The oldest Terraform that the provider is for. One that is not there is no
# fault: the tests then fetch the latest.
check_terraform() {
  local oldest=1.8.0 found
  if ! command -v terraform >/dev/null; then
    echo "setup.sh: no terraform on PATH; the tests fetch the latest" >&2
    return
  fi
  found=$(CHECKPOINT_DISABLE=1 TF_CLI_CONFIG_FILE=/dev/null terraform version | sed -n 's/^Terraform v//p')
  [[ -n $found ]] || fail "'terraform version' names no version: $(command -v terraform)"
  [[ $(printf '%s\n' "$oldest" "$found" | sort -V | head -n 1) == "$oldest" ]] ||
    fail "Terraform $oldest or later is needed, but PATH has $found: $(command -v terraform)"
}

# The race detector is linked by a C compiler, against the C library's headers.
compiles() {
  local cc
  read -ra cc <<<"$(go env CC)"
  command -v "${cc[0]}" >/dev/null &&
    printf '#include <stdlib.h>\n#include <pthread.h>\nint main(void) { return 0; }\n' |
    "${cc[@]}" -pthread -x c -o /dev/null - 2>/dev/null
}

check_compiler() {
  compiles || install_packages gcc libc6-dev
  compiles || fail "'$(go env CC)' (from 'go env CC') cannot compile a C program that includes <stdlib.h>"
}

check_go
check_terraform
check_compiler
need psql:postgresql-client jq curl
