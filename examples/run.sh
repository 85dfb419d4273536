#!/usr/bin/env bash
# Runs the examples by the commands of their READMEs against a gateway with TLS and tokens and the
# simulators, each twice, and asks the simulators' books: one effect for each, and no more.
#
#   examples/run.sh [LANGUAGE...]
#
# Needs what the READMEs of the languages need.
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
languages=("$@")
if [ ${#languages[@]} = 0 ]; then
    languages=(python typescript go java cpp ruby php rust bash whmcs)
fi
work=$(mktemp -d)
staging=
cleanup() {
    [ -z "$staging" ] || kill "$staging" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

cd "$tree"
cargo build --quiet --locked --package recoup --features staging --bins
program=${CARGO_TARGET_DIR:-$tree/target}/debug/recoup
any=127.0.0.1:0
"$program" staging --dir "$work/staging" --listen "$any" --tls "$any" --http "$any" --free-ports > "$work/log" 2>&1 &
staging=$!
until grep -q 'Press Ctrl-C' "$work/log"; do
    kill -0 "$staging" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
of_log() { grep -om1 "$1" "$work/log" | grep -o '[^ ]*$'; }
RECOUP_SERVER=$(of_log '^with TLS: [^,]*')
RECOUP_URL=$(of_log '^JSON endpoint: .*')
SIMULATORS_URL=$(of_log 'http://[^/]*/v1/books')
SIMULATORS_URL=${SIMULATORS_URL%/v1/books}
export RECOUP_SERVER RECOUP_URL SIMULATORS_URL
export RECOUP_CA_FILE="$work/staging/ca.pem" RECOUP_TOKEN_FILE="$work/staging/token"

# The effects on an order in the simulators' books.
effects() {
    curl -sf "$SIMULATORS_URL/v1/books" | jq --arg order "$1" '[.. | objects | select(.target? == $order)] | length'
}

order=1000001
for language in "${languages[@]}"; do
    printf '== %s\n' "$language"
    began=$SECONDS
    readme=$tree/examples/$language/README.md
    commands=$(sed -n '/^```sh$/,/^```$/{/^```/d;p}' "$readme")
    run() {
        (cd "$tree/examples/$language" && ACCOUNT=sectigo ORDER=$order STORE="$work/$language.store" bash -euo pipefail -c "$commands")
    }
    if [ "$language" = whmcs ]; then
        # Its test asks the books by itself.
        run
    else
        run | tee "$work/first"
        grep -q '^created .* SUCCEEDED MOVED$' "$work/first"
        grep -q '^replayed .* true$' "$work/first"
        grep -q '^refused REFUND_ID_REUSED .' "$work/first"
        grep -q '^events [1-9]' "$work/first"
        grep -q '^resumed after ' "$work/first"
        grep -q '^validation ' "$work/first"
        run > "$work/second"
        [ "$(grep '^created' "$work/first")" = "$(grep '^created' "$work/second")" ]
        [ "$(effects "$order")" = 1 ]
        order=$((order + 1))
    fi
    printf -- '-- %s: %d s, and the books agree\n' "$language" "$((SECONDS - began))"
done
