# shellcheck shell=bash
# Functions that install programs and packages for the tests. Root on a Debian-like
# system installs what is missing; elsewhere the caller fails and says what to install.

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# without_services COMMAND... keeps Debian's packages from starting their servers: the
# tests start their own. While policy-rc.d exits with 101, no service starts.
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
  # Update the package lists only if the present ones, if any, do not suffice.
  without_services "${apt[@]}" install --yes --no-install-recommends "$@" >/dev/null 2>&1 ||
    { "${apt[@]}" update && without_services "${apt[@]}" install --yes --no-install-recommends "$@"; } >/dev/null ||
    fail "apt-get install $* failed"
}

# newest_postgresql upgrades the server to the distribution's newest minor release. It
# requires root on a Debian-like system; elsewhere it does nothing.
newest_postgresql() {
  if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    return
  fi
  apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update >/dev/null || true
  local installed
  mapfile -t installed < <(dpkg-query -W -f '${Package}\n' 'postgresql-[0-9]*' 2>/dev/null | grep -E '^postgresql-[0-9]+$')
  install_packages postgresql "${installed[@]}"
}

# need PROGRAM[:PACKAGE]... installs the programs that are not on PATH. The package has
# the program's name by default.
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
