#!/usr/bin/env bash
# Is the oracle awake? Plants the bugs of this folder one by one into a copy of the tree and runs the simulation on each.
#
#   tests/planted/run.sh [SEEDS [PATTERN]]     SEEDS for each bug (default 2000); only bugs whose name has PATTERN
#
# Prints, for each, how many seeds caught it and which line of the oracle spoke first. The exit code is 0 when the tree as it is has no
# violation and every bug is caught.
#
# PLANTED_TARGET_DIR names a target folder that outlives the run, so that the next one builds less. It must be a folder for this alone: cargo
# tells the parts of two copies of one tree apart by their times only, and would give another build one with a bug in it.
set -euo pipefail

seeds=${1:-2000}
pattern=${2:-}
tree=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${PLANTED_TARGET_DIR:-$copy/target}
if [ "$(realpath -m "$CARGO_TARGET_DIR")" = "$(realpath -m "$tree/target")" ]; then
    echo "PLANTED_TARGET_DIR must not be the tree's own target folder" >&2
    exit 2
fi
# Nobody debugs these.
export CARGO_PROFILE_DEV_DEBUG=0

# As it stands in the working tree, committed or not.
(cd "$tree" && git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -cf -) | tar -xf - -C "$copy"
cd "$copy"

# Builds the simulation and tells where it is.
build() {
    cargo test --quiet --test simulation --no-run --message-format=json 2> build.log |
        grep -o '"executable":"[^"]*/simulation-[^"]*"' | tail -n 1 | cut -d '"' -f 4
}

# Runs it; "N  line: count (...)" of the violations.
ask() {
    local said
    said=$("$1" --seeds-only --count --seeds "$seeds" || true)
    local caught
    caught=$(sed -n 's/^seeds with violations *//p' <<< "$said")
    printf '%s seeds%s\n' "${caught:-0}" "$(sed -n '/^seeds with violations/,$p' <<< "$said" | sed -n '2,$s/^ */; /p' | tr -d '\n')"
    [ "${caught:-0}" != 0 ]
}

failures=0
program=$(build) || { cat build.log; exit 2; }
if line=$(ask "$program"); then failures=$((failures + 1)); fi
printf '%-44s %s\n' "nothing planted" "$line"

bugs=0 caught=0
for patch in tests/planted/*"$pattern"*.patch; do
    name=$(basename "$patch" .patch)
    bugs=$((bugs + 1))
    if ! patch --quiet --strip=1 --forward < "$patch"; then
        printf '%-44s %s\n' "$name" "DOES NOT APPLY"
        exit 2
    fi
    if ! program=$(build) || [ -z "$program" ]; then
        printf '%-44s %s\n' "$name" "DOES NOT BUILD"
        cat build.log
        exit 2
    fi
    if line=$(ask "$program"); then
        caught=$((caught + 1))
        printf '%-44s %s\n' "$name" "caught by $line"
    else
        failures=$((failures + 1))
        printf '%-44s %s\n' "$name" "NOT CAUGHT"
    fi
    patch --quiet --strip=1 --reverse < "$patch"
    # A build looks at times, and these went back.
    grep -o '^+++ b/[^ ]*' "$patch" | cut -c 7- | xargs touch
done
echo "$caught of $bugs planted bugs are caught, by $seeds seeds each"
[ "$failures" = 0 ]
