#!/usr/bin/env bash
# curl, jq and psql: one \copy straight into the table. It cannot be repeated: a second run fails on the key.
set -euo pipefail
. "$BENCH_PEERS/rows.sh"
rows | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname="$BENCH_URL" --command="\\copy bench.peer from pstdin with (format csv)"
