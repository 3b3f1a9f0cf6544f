#!/usr/bin/env bash
# Checks or installs everything that `make test` needs besides Go modules, except
# PostgreSQL, which internal/postgrestest finds or installs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
source scripts/need.sh

check_go() {
  local wanted
  wanted=$(sed -n 's/^go //p' go.mod)
  command -v go >/dev/null || fail "please install Go $wanted or later: https://go.dev/doc/install"
  # An older Go either downloads the newer one or rejects the module.
  go list -m >/dev/null || fail "please install Go $wanted or later (this is $(go version)): https://go.dev/doc/install"
}

# Without any terraform the tests download the latest.
check_terraform() {
  local oldest=1.8.0 found
  if ! command -v terraform >/dev/null; then
    echo "setup.sh: no terraform on PATH; the tests download the latest" >&2
    return
  fi
  found=$(CHECKPOINT_DISABLE=1 TF_CLI_CONFIG_FILE=/dev/null terraform version | sed -n 's/^Terraform v//p')
  [[ -n $found ]] || fail "'terraform version' prints no version: $(command -v terraform)"
  [[ $(printf '%s\n' "$oldest" "$found" | sort -V | head -n 1) == "$oldest" ]] ||
    fail "Terraform $oldest or later is required, but PATH has $found: $(command -v terraform)"
}

# The race detector requires a C compiler and the headers of the C library.
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
