#!/usr/bin/env bash
# Refunds a Sectigo order through recoup: grpcurl speaks gRPC, and curl the JSON endpoint. Run again
# with the same arguments it sends nothing, and shows the same refund.
#
# Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong
# usage.
set -euo pipefail

# In seconds. The gateway answers shortly before the deadline, with the refund as it then is.
deadline=30
# How long to go on asking before the script leaves the refund to its next run.
patience=120
pause=2

if (($# != 3)); then
    echo 'usage: refund.sh ACCOUNT ORDER STORE' >&2
    exit 2
fi
account=$1 order=$2 store=$3
for setting in RECOUP_SERVER RECOUP_URL RECOUP_CA_FILE RECOUP_TOKEN_FILE; do
    if [[ -z ${!setting:-} ]]; then
        echo "$setting is not set" >&2
        exit 2
    fi
done
proto=$(cd "$(dirname "$0")/../../proto" && pwd)
answer=$(mktemp)
error=$(mktemp)
trap 'rm -f "$answer" "$error"' EXIT

# METHOD REQUEST [SECONDS]: a call by gRPC. The token stays out of the list of processes. The exit
# status of a call that gRPC ended is 64 and the status code.
call_grpc() {
    RECOUP_TOKEN=$(< "$RECOUP_TOKEN_FILE") grpcurl -cacert "$RECOUP_CA_FILE" -max-time "${3:-$deadline}" \
        -expand-headers -H 'authorization: Bearer ${RECOUP_TOKEN}' -format-error \
        -import-path "$proto" -proto recoup/v1/refund_service.proto -proto google/rpc/error_details.proto \
        -d "$2" "$RECOUP_SERVER" "recoup.v1.$1"
}

# METHOD REQUEST: the same call through the JSON endpoint. Where it is refused, the error is what it
# prints, and the exit status is 22.
call_json() {
    curl --silent --show-error --fail-with-body --cacert "$RECOUP_CA_FILE" --max-time $((deadline + 5)) \
        --header @<(printf 'authorization: Bearer %s\n' "$(< "$RECOUP_TOKEN_FILE")") \
        --header 'content-type: application/json' --header 'connect-protocol-version: 1' \
        --header "connect-timeout-ms: ${deadline}000" \
        --data "$2" "$RECOUP_URL/recoup.v1.$1"
}

# What must survive a crash of this script: which refund belongs to which order, and how far the
# event stream has been read. A shop keeps both in its database.
read_store() {
    if [[ -e $store ]]; then
        cat "$store"
    else
        echo '{"refunds": {}, "last_sequence": 0}'
    fi
}

# FILTER [ARGUMENT...]: changes the store by jq. A new file replaces the old one at once, so that a
# crash leaves one of the two.
change_store() {
    read_store | jq "${@:2}" "$1" > "$store.new"
    sync "$store.new"
    mv "$store.new" "$store"
    sync "$(dirname "$store")"
}

# The order's refund id. A new one is on disk before it is used.
take_refund_id() {
    refund_id=$(read_store | jq --raw-output --arg order "$order" '.refunds[$order] // empty')
    if [[ -z $refund_id ]]; then
        refund_id=$(< /proc/sys/kernel/random/uuid)
        change_store '.refunds[$order] = $id' --arg order "$order" --arg id "$refund_id"
    fi
}

create_request() { # ORDER
    jq --null-input --arg id "$refund_id" --arg account "$account" --arg order "$1" \
        '{refund_id: $id, account: $account, sectigo: {order_number: $order, reason: "SECTIGO_REFUND_REASON_OTHER"}}'
}

# The field of the refund in the last answer.
refund() {
    jq --raw-output ".refund.$1" "$answer"
}

# Whether the error leaves open what became of the refund, or passes by itself. Only an error with
# an ErrorInfo says that the call recorded nothing.
is_unanswered() { # EXIT_STATUS
    (($1 == 64 + 4 || $1 == 64 + 14)) || ! grep --quiet google.rpc.ErrorInfo "$error"
}

# Creates the refund and waits until it is decided or needs a person. After a call without an answer
# it asks again, always under the same id.
refund_until_decided() {
    local method=CreateRefund request status
    request=$(create_request "$order")
    while ((SECONDS < patience)); do
        status=0
        call_grpc "RefundService/$method" "$request" > "$answer" 2> "$error" || status=$?
        if ((status == 0)); then
            case $(refund state) in
                STATE_SUCCEEDED | STATE_PARTIALLY_SUCCEEDED | STATE_FAILED | STATE_CANCELLED) return 0 ;;
                STATE_NEEDS_REVIEW | STATE_AWAITING_APPROVAL)
                    echo "refund $refund_id waits for a person: run it again when they have decided" >&2
                    return 5
                    ;;
            esac
            method=WaitRefund
            request=$(jq '{name: .refund.name, after_revision: .refund.revision}' "$answer")
        elif is_unanswered "$status"; then
            echo "no answer about $refund_id: asking again" >&2
            sleep "$pause"
        else
            cat "$error" >&2
            return 1
        fi
    done
    echo "refund $refund_id is undecided: run the same command again" >&2
    return 5
}

# Asks for another order under the same id, which is refused, and prints why.
show_refusal() {
    if call_json RefundService/CreateRefund "$(create_request another-order)" > "$error"; then
        echo "another order was taken under the id $refund_id" >&2
        return 1
    fi
    jq --raw-output '
        def detail(type): .details[] | select(.type == type).debug;
        ([detail("google.rpc.ErrorInfo").metadata.differing_fields // empty]
            + [detail("google.rpc.BadRequest").fieldViolations[].field]) as $fields
        | "refused \(detail("google.rpc.ErrorInfo").reason) \($fields | join(","))"' "$error"
}

# SECONDS: prints the sequences of the refund's events after the store's last one, up to its latest
# revision. What is left of the stream ends at its deadline.
read_events() {
    local last event_sequence name event_revision note
    last=$(read_store | jq .last_sequence)
    while IFS=$'\t' read -r event_sequence name event_revision note; do
        if ((event_sequence <= last)); then
            echo "event $event_sequence came twice" >&2
            return 1
        fi
        last=$event_sequence
        [[ $name == "refunds/$refund_id" ]] || continue
        echo "$event_sequence $note" >&2
        echo "$event_sequence"
        ((event_revision < revision)) || break
    done < <(call_grpc RefundService/StreamRefundEvents "{\"after_sequence\": $last}" "$1" 2> /dev/null |
        jq --unbuffered --raw-output '.event | [.sequence, .refund, .revision, .note] | @tsv')
    # Only now: after a crash, what was read since the last time comes again.
    change_store '.last_sequence = $last' --argjson last "$last"
}

# Prints the refund's events that the store has not seen, then opens the stream once more where it
# ended, as a program does after a restart.
follow_events() {
    local seen after
    read_events 5 > "$answer"
    mapfile -t seen < "$answer"
    if ((${#seen[@]} > 0)); then
        echo "events ${#seen[@]} ${seen[0]}..${seen[-1]}"
    else
        echo 'events 0'
    fi
    after=$(read_store | jq .last_sequence)
    read_events 1 > /dev/null
    echo "resumed after $after"
}

take_refund_id
outcome=0
refund_until_decided || outcome=$?
if [[ -s $answer ]]; then
    state=$(refund state) verdict=$(refund moneyVerdict) revision=$(refund revision)
    echo "created $refund_id ${state#STATE_} ${verdict#MONEY_VERDICT_}"
fi
((outcome == 0)) || exit "$outcome"

if ! call_json RefundService/CreateRefund "$(create_request "$order")" > "$answer"; then
    cat "$answer" >&2
    exit 1
fi
echo "replayed $refund_id $(jq '.replayed // false' "$answer")"
show_refusal
follow_events
call_json ValidationStatusService/GetValidationStatus \
    "$(jq --null-input --arg account "$account" --arg order "$order" '{account: $account, order_number: $order}')" |
    jq --raw-output '"validation \(.validationStatus.orderStatusText)"'

case $verdict in
    MONEY_VERDICT_MOVED) exit 0 ;;
    MONEY_VERDICT_NOT_MOVED) exit 4 ;;
    *) exit 5 ;;
esac
