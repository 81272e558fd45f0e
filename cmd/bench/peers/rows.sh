# The rows of all windows as CSV on standard output: one request after the other, as the vendor wants it.
# Sourced by the peers that begin with curl and jq.
rows() {
    while read -r url; do
        curl --silent --show-error --fail --header "authorizationToken: $BENCH_TOKEN" --header "accept: application/json" "$url" |
            jq --raw-output --argjson customer "$BENCH_CUSTOMER_KEY" --slurpfile keys "$BENCH_KEYS" --from-file "$BENCH_PEERS/rows.jq"
    done <"$BENCH_URLS"
}
