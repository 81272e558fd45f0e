#!/usr/bin/env bash
# curl, jq and psql: \copy into a temporary table, then one upsert that leaves equal rows alone.
set -euo pipefail
. "$BENCH_PEERS/rows.sh"
rows | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname="$BENCH_URL" \
    --command="set temp_buffers = '256MB'" \
    --command="create temporary table stage (like bench.peer)" \
    --command="\\copy stage from pstdin with (format csv)" \
    --command="$(cat "$BENCH_PEERS/upsert.sql")"
