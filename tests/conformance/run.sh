#!/usr/bin/env bash
# Connect's published conformance cases against the JSON endpoint.
#
#   tests/conformance/run.sh [ARGUMENT...]
#
# Arguments go to connectconformance, for example `--run 'Errors/**'`. Needs Go, Node and npm.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
version=v1.0.7
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOFLAGS=-modcacherw

GOBIN="$work" go install "connectrpc.com/conformance/cmd/connectconformance@$version"
protos=$(go mod download -json "connectrpc.com/conformance@$version" | grep -o '"Dir": "[^"]*"' | cut -d '"' -f 4)/proto
npm install --silent --no-audit --no-fund --no-save --prefix "$work" @bufbuild/buf@1.75.0
(cd "$protos" && "$work/node_modules/.bin/buf" build . --output "$work/conformance.binpb")
export CONFORMANCE_DESCRIPTORS="$work/conformance.binpb"
CONFORMANCE_SERVER=$(cd "$tree" && cargo test --locked --lib --no-run --message-format=json 2>/dev/null |
    grep '"name":"recoup"' | grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d '"' -f 4)
export CONFORMANCE_SERVER
"$work/connectconformance" --mode server --conf "$here/config.yaml" --known-failing @"$here/known_failing.txt" "$@" -- "$here/server.sh"
