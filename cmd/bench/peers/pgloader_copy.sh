#!/usr/bin/env bash
# curl and jq make CSV, pgloader loads it: straight into the table.
set -euo pipefail
. "$BENCH_PEERS/rows.sh"
rows | pgloader --quiet --root-dir "$BENCH_DIR" "$BENCH_PEERS/pgloader_copy.load"
