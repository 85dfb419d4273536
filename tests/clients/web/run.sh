#!/usr/bin/env bash
# The clients of the JSON endpoint against a staging gateway whose pages may come from one origin.
#
#   tests/clients/web/run.sh
#
# Needs Node 20, npm and Chromium.
set -euo pipefail
cd "$(dirname "$0")"
tree=$(cd ../../.. && pwd)
work=$(mktemp -d)
staging=
cleanup() {
    [ -z "$staging" ] || kill "$staging" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

(cd "$tree" && cargo build --quiet --locked --package recoup --features staging --bins)
npm ci --silent --no-audit --no-fund
npm run --silent build
# Free ports, which the pages take a moment later.
PAGE_PORTS=$(node -e '
const { createServer } = require("node:net");
const servers = [0, 1].map(() => createServer().listen(0, "127.0.0.1"));
setTimeout(() => { console.log(servers.map((one) => one.address().port).join(" ")); process.exit(); }, 50);')
export PAGE_PORTS
any=127.0.0.1:0
RECOUP_HTTP__ALLOWED_ORIGINS="http://127.0.0.1:${PAGE_PORTS% *}" \
    "${CARGO_TARGET_DIR:-$tree/target}/debug/recoup" staging --dir "$work/staging" \
    --listen "$any" --tls "$any" --http "$any" --free-ports > "$work/log" 2>&1 &
staging=$!
until grep -q 'Press Ctrl-C' "$work/log"; do
    kill -0 "$staging" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
of_log() { grep -om1 "$1" "$work/log" | grep -o '[^ ]*$'; }
RECOUP_URL=$(of_log '^JSON endpoint: .*')
SIMULATORS_URL=$(of_log 'http://[^/]*/v1/books')
export RECOUP_URL SIMULATORS_URL="${SIMULATORS_URL%/v1/books}" RECOUP_TOKEN_FILE="$work/staging/token"
npm run --silent test
