#!/usr/bin/env bash
# The server under test, for connectconformance: its answer goes to standard output, and what the
# test harness prints does not.
set -euo pipefail
exec 3>&1 1>/dev/null
exec "$CONFORMANCE_SERVER" api::web::conformance::serve --exact --ignored --nocapture
