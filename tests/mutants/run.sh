#!/usr/bin/env bash
# Mutation tests: makes the small changes of cargo-mutants one by one in a copy of the tree, runs
# the unit tests on each, and the simulation on the changes that the unit tests miss.
#
#   tests/mutants/run.sh [FILE...]     source files; default: those that decide about money
#
# Prints for each file how many changes the unit tests catch, how many the simulation catches, how
# many are missed and how many do not build, and the names of the missed ones. The exit code is 0
# when docs/reliability.md lists each missed change with its reason, 1 when it does not, and 2 when
# the unchanged tree fails its tests.
#
#   MUTANTS_NAMES=REGEX      only the changes whose printed names match
#   MUTANTS_SEEDS=N          seeds of the simulation for each change (default 500)
#   MUTANTS_TARGET_DIR=DIR   a target folder that outlives the run, so that the next run builds
#                            less; only for this script, since it contains builds of changed code
#   MUTANTS_OUTPUT=DIR       keeps the logs of cargo-mutants there
set -euo pipefail

version=27.1.0
seeds=${MUTANTS_SEEDS:-500}
tree=$(cd "$(dirname "$0")/../.." && pwd)
accepted=$tree/docs/reliability.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
output=${MUTANTS_OUTPUT:-$work/output}
mkdir -p "$output"

files=("$@")
if [ ${#files[@]} = 0 ]; then
    files=(
        src/engine/{decide,attempt,lookup,reconcile,create,cancel,resolve,reassign,workers,account,circuit_breaker,places,recent_lookups,core,spans,outcome_log}.rs
        src/domain/{state,refund,target,place}.rs
        src/providers/rate_limit.rs
        src/providers/namecom/{order,wire,rows,domains,listing}.rs
        src/providers/{sectigo,debitsuccess}/wire.rs
        src/ledger/sqlite/{transaction,queries,pages}.rs
    )
fi
chosen=()
for file in "${files[@]}"; do
    if [ ! -f "$tree/$file" ]; then
        echo "there is no $file in $tree" >&2
        exit 2
    fi
    chosen+=(--file "$file")
done

if [ -n "${MUTANTS_NAMES:-}" ]; then chosen+=(--re "$MUTANTS_NAMES"); fi

CARGO_TARGET_DIR=$(realpath -m "${MUTANTS_TARGET_DIR:-$work/target}")
if [ "$CARGO_TARGET_DIR" = "$(realpath -m "$tree/target")" ]; then
    echo "MUTANTS_TARGET_DIR must not be the tree's own target folder" >&2
    exit 2
fi
# These builds are not debugged.
export CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0

mutants=cargo-mutants
if [ "$("$mutants" mutants --version 2> /dev/null)" != "cargo-mutants $version" ]; then
    # Outside of the tree and of the user's own programs; the next run uses it again.
    root=${TMPDIR:-/tmp}/recoup-cargo-mutants-$version
    mutants=$root/bin/cargo-mutants
    if [ ! -x "$mutants" ]; then
        CARGO_TARGET_DIR=$work/tool cargo install --quiet cargo-mutants --locked --debug \
            --version "$version" --root "$root" >&2
    fi
fi

# Runs these tests on each change that is not caught yet. cargo-mutants exits with 0 when all
# changes are caught, with 2 when some are missed, and with 3 when some time out.
try() {
    local code=0
    "$mutants" mutants --dir "$tree" --package recoup "${chosen[@]}" --output "$output" --jobs 1 \
        --no-times --colors never "$@" > "$output/log" 2>&1 || code=$?
    case $code in
        0 | 2 | 3) ;;
        *)
            cat "$output/log" >&2
            exit 2
            ;;
    esac
}

results=$output/mutants.out
# A change with which a test never ends is caught, too.
caught() { cat "$results"/{caught,timeout}.txt; }

rm -rf "$results" "$results.old"
# The same argument for the build as for the run, so that nothing else is built.
try --cargo-arg=--lib
caught > "$work/units"
cp "$results/unviable.txt" "$work/unviable"
cp "$results/missed.txt" "$work/missed"
: > "$work/simulation"
if [ -s "$work/missed" ]; then
    try --iterate --cargo-arg=--test=simulation -- -- --seeds-only --seeds "$seeds"
    caught > "$work/simulation"
    # Changes that do not build are counted above.
    cp "$results/missed.txt" "$work/missed"
fi

count() { grep -c "^$2:" "$work/$1" || true; }
printf '%-40s %10s %10s %10s %10s\n' "" "unit tests" simulation missed unviable
for file in "${files[@]}"; do
    printf '%-40s %10s %10s %10s %10s\n' "$file" \
        "$(count units "$file")" "$(count simulation "$file")" "$(count missed "$file")" "$(count unviable "$file")"
done

unknown=0
while IFS= read -r missed; do
    # Without line and column, which change with the file.
    name=$(sed -E 's/^([^:]+):[0-9]+:[0-9]+:/\1:/' <<< "$missed")
    if grep -qF "\`$name\`" "$accepted"; then
        echo "missed, accepted: $missed"
    else
        unknown=$((unknown + 1))
        echo "missed: $missed"
    fi
done < "$work/missed"
echo "$(wc -l < "$work/missed") missed, $unknown of them without a reason in docs/reliability.md"
[ "$unknown" = 0 ]
