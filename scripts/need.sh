# shellcheck shell=bash
# Sourced by the scripts beside it: programs and packages that the tests need.
# What is missing is installed as root on a Debian-like system; anywhere else the
# caller fails, saying what to install.

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Debian's packages of servers start them. Ours are for the tests, which run
# their own: while a policy-rc.d says 101, nothing is started.
without_services() {
  local policy=/usr/sbin/policy-rc.d status=0
  if [[ -e $policy ]]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
  "$@" || status=$?
  rm -f "$policy"
  return "$status"
}

# install_packages PACKAGE...
install_packages() {
  if ! command -v apt-get >/dev/null; then
    fail "please install what Debian packages as: $*"
  fi
  if [[ $(id -u) != 0 ]]; then
    fail "please install (or run this as root, which does): apt-get install $*"
  fi
  printf '%s: installing %s\n' "${0##*/}" "$*" >&2
  local apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  export DEBIAN_FRONTEND=noninteractive
  # The lists are fetched only when those at hand, which may be none, do not do.
  without_services "${apt[@]}" install --yes --no-install-recommends "$@" >/dev/null 2>&1 ||
    { "${apt[@]}" update && without_services "${apt[@]}" install --yes --no-install-recommends "$@"; } >/dev/null ||
    fail "apt-get install $* failed"
}

# newest_postgresql brings the server up to the distribution's newest minor release,
# which a machine that was set up earlier does not have. Only root on a Debian-like
# system can; anywhere else the tests run with what is there.
newest_postgresql() {
  if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    return
  fi
  apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update >/dev/null || true
  local installed
  mapfile -t installed < <(dpkg-query -W -f '${Package}\n' 'postgresql-[0-9]*' 2>/dev/null | grep -E '^postgresql-[0-9]+$')
  install_packages postgresql "${installed[@]}"
}

# need PROGRAM[:PACKAGE]... installs those of the programs that are not on PATH.
# The package is named only where it is not named as the program.
need() {
  local each packages=()
  for each; do
    command -v "${each%%:*}" >/dev/null || packages+=("${each##*:}")
  done
  if ((${#packages[@]} == 0)); then
    return
  fi
  install_packages "${packages[@]}"
  hash -r
  for each; do
    command -v "${each%%:*}" >/dev/null ||
      fail "${each%%:*} is not on PATH, although ${each##*:} is installed"
  done
}
