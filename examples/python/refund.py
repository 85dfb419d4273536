"""Refunds a Sectigo order through recoup. Run again with the same arguments it sends nothing, and
shows the same refund.

Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong usage.
"""

import os
import sys
import time

import grpc

from gateway import SETTINGS, Gateway, detail, is_unanswered
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from recoup.v1.refund_pb2 import Refund, RefundEvent
from store import Store

EXIT_STATUS = {Refund.MONEY_VERDICT_MOVED: 0, Refund.MONEY_VERDICT_NOT_MOVED: 4}
REFUSED = 1
WRONG_USAGE = 2
UNDECIDED = 5

# How long to go on asking before the program leaves the refund to its next run.
PATIENCE = 120
PAUSE = 2

TERMINAL = (
    Refund.STATE_SUCCEEDED,
    Refund.STATE_PARTIALLY_SUCCEEDED,
    Refund.STATE_FAILED,
    Refund.STATE_CANCELLED,
)
FOR_A_PERSON = (Refund.STATE_NEEDS_REVIEW, Refund.STATE_AWAITING_APPROVAL)


def run(gateway: Gateway, store: Store, account: str, order: str) -> int:
    refund_id = store.refund_id(order)

    refund = refund_until_decided(gateway, account, order, refund_id)
    if refund is None:
        note(f"refund {refund_id} is undecided: run the same command again")
        return UNDECIDED
    print("created", refund_id, state_name(refund), verdict_name(refund))
    if refund.state in FOR_A_PERSON:
        note(f"refund {refund_id} waits for a person: run the same command again when they have decided")
        return UNDECIDED

    again = gateway.create_refund(account, order, refund_id)
    print("replayed", refund_id, str(again.replayed).lower())
    show_refusal(gateway, account, refund_id)
    follow_events(gateway, store, refund)
    print("validation", gateway.validation_status(account, order).order_status_text)
    return EXIT_STATUS.get(refund.money_verdict, UNDECIDED)


def refund_until_decided(gateway: Gateway, account: str, order: str, refund_id: str) -> Refund | None:
    """Creates the refund and waits until it is decided or needs a person.

    After a call without an answer it asks again, always under the same id. None: patience has run
    out.
    """
    give_up = time.monotonic() + PATIENCE
    refund = None
    while time.monotonic() < give_up:
        try:
            if refund is None:
                refund = gateway.create_refund(account, order, refund_id).refund
            else:
                refund = gateway.wait_refund(refund).refund
        except grpc.RpcError as error:
            if not is_unanswered(error):
                raise
            note(f"no answer about {refund_id} ({error.code().name}): asking again")
            time.sleep(PAUSE)
            continue
        if refund.state in TERMINAL or refund.state in FOR_A_PERSON:
            return refund
    return None


def show_refusal(gateway: Gateway, account: str, refund_id: str) -> None:
    """Asks for another order under the same id, which is refused, and prints why."""
    try:
        gateway.create_refund(account, "another-order", refund_id)
    except grpc.RpcError as error:
        info = detail(error, ErrorInfo)
        if info is None:
            raise
        fields = [info.metadata["differing_fields"]] if "differing_fields" in info.metadata else []
        request = detail(error, BadRequest)
        if request is not None:
            fields += [violation.field for violation in request.field_violations]
        print("refused", info.reason, ",".join(fields))
    else:
        raise RuntimeError(f"another order was taken under the id {refund_id}")


def follow_events(gateway: Gateway, store: Store, refund: Refund) -> None:
    """Prints the refund's events that the store has not seen, then opens the stream once more where
    it ended, as a program does after a restart."""
    seen = read_events(gateway, store, refund, deadline=5)
    if seen:
        print(f"events {len(seen)} {seen[0].sequence}..{seen[-1].sequence}")
    else:
        print("events 0")
    after = store.last_sequence
    read_events(gateway, store, refund, deadline=1)
    print("resumed after", after)


def read_events(gateway: Gateway, store: Store, refund: Refund, deadline: float) -> list[RefundEvent]:
    """The refund's events after the store's last sequence, up to its latest revision."""
    seen = []
    for event in gateway.events(after=store.last_sequence, deadline=deadline):
        if event.sequence <= store.last_sequence:
            raise RuntimeError(f"event {event.sequence} came twice")
        store.last_sequence = event.sequence
        if event.refund != refund.name:
            continue
        note(f"{event.sequence:6} {event.note}")
        seen.append(event)
        if event.revision >= refund.revision:
            break
    # Only now: after a crash, what was read since the last time comes again.
    store.save()
    return seen


def state_name(refund: Refund) -> str:
    return Refund.State.Name(refund.state).removeprefix("STATE_")


def verdict_name(refund: Refund) -> str:
    return Refund.MoneyVerdict.Name(refund.money_verdict).removeprefix("MONEY_VERDICT_")


def note(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> int:
    if len(sys.argv) != 4:
        note("usage: refund.py ACCOUNT ORDER STORE")
        return WRONG_USAGE
    missing = [name for name in SETTINGS if name not in os.environ]
    if missing:
        note("\n".join(f"{name} is not set" for name in missing))
        return WRONG_USAGE
    account, order, path = sys.argv[1:]
    try:
        with Gateway.from_environment() as gateway:
            return run(gateway, Store(path), account, order)
    except grpc.RpcError as error:
        note(f"{error.code().name}: {error.details()}")
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
