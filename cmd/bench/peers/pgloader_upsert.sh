#!/usr/bin/env bash
# curl and jq make CSV, pgloader loads it into an unlogged table, and one upsert leaves equal rows alone.
set -euo pipefail
. "$BENCH_PEERS/rows.sh"
rows | pgloader --quiet --root-dir "$BENCH_DIR" "$BENCH_PEERS/pgloader_upsert.load"
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname="$BENCH_URL" --command="set search_path = bench" --file="$BENCH_PEERS/upsert.sql"
