#!/usr/bin/env bash
# Tests the simulation's oracle: plants the bugs of this folder one by one into a copy of the tree
# and runs the simulation on each.
#
#   tests/planted/run.sh [SEEDS [PATTERN]]
#
# SEEDS is the number of seeds for each bug (default 2000). With PATTERN, only the bugs whose names
# contain it are planted.
#
# Prints for each bug how many seeds caught it, and which promises were broken. The exit code is 0
# when the unchanged tree has no violation and every bug is caught.
#
# PLANTED_TARGET_DIR names a target folder that outlives the run, so that the next run builds less.
# The folder must not be used for anything else: cargo distinguishes the files of two copies of one
# tree only by their times, and another build could get a part with a bug in it.
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
# These builds are not debugged.
export CARGO_PROFILE_DEV_DEBUG=0

# Copies the working tree, committed or not.
(cd "$tree" && git ls-files -z --cached --others --exclude-standard |
    tar --null --ignore-failed-read -T - -cf -) | tar -xf - -C "$copy"
cd "$copy"

# Builds the simulation and prints its path.
build() {
    cargo test --quiet --test simulation --no-run --message-format=json 2> build.log |
        grep -o '"executable":"[^"]*/simulation-[^"]*"' | tail -n 1 | cut -d '"' -f 4
}

# Runs it, and prints how many seeds had violations, and which promises they broke.
run_seeds() {
    local output
    output=$("$1" --seeds-only --count --seeds "$seeds" || true)
    local caught
    caught=$(sed -n 's/^seeds with violations *//p' <<< "$output")
    printf '%s seeds%s\n' "${caught:-0}" \
        "$(sed -n '/^seeds with violations/,$p' <<< "$output" | sed -n '2,$s/^ */; /p' | tr -d '\n')"
    [ "${caught:-0}" != 0 ]
}

failures=0
program=$(build) || { cat build.log; exit 2; }
if line=$(run_seeds "$program"); then failures=$((failures + 1)); fi
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
    if line=$(run_seeds "$program"); then
        caught=$((caught + 1))
        printf '%-44s %s\n' "$name" "caught by $line"
    else
        failures=$((failures + 1))
        printf '%-44s %s\n' "$name" "NOT CAUGHT"
    fi
    patch --quiet --strip=1 --reverse < "$patch"
    # cargo compares times, and the reversed patch restored old ones.
    grep -o '^+++ b/[^ ]*' "$patch" | cut -c 7- | xargs touch
done
echo "$caught of $bugs planted bugs are caught, by $seeds seeds each"
[ "$failures" = 0 ]
