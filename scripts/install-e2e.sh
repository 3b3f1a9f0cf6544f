#!/usr/bin/env bash
# Installs the programs that `make test-e2e` needs, as PROGRAM or PROGRAM:PACKAGE.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
source scripts/need.sh

need \
  psql:postgresql-client \
  jq \
  curl \
  chromium \
  prometheus \
  promtool:prometheus \
  prometheus-pushgateway \
  prometheus-postgres-exporter \
  pgbouncer
