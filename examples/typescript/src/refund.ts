// Refunds a Sectigo order through recoup. Run again with the same arguments it sends nothing, and
// shows the same refund.
//
// Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong
// usage.

import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema } from "./generated/google/rpc/error_details_pb.js";
import { type Refund, Refund_MoneyVerdict, Refund_State } from "./generated/recoup/v1/refund_pb.js";
import { Gateway, isUnanswered, SETTINGS } from "./gateway.js";
import { Store } from "./store.js";

const REFUSED = 1;
const WRONG_USAGE = 2;
const NOT_MOVED = 4;
const UNDECIDED = 5;

// How long to go on asking before the program leaves the refund to its next run.
const PATIENCE_MS = 120_000;
const PAUSE_MS = 2_000;

const TERMINAL = [
  Refund_State.SUCCEEDED,
  Refund_State.PARTIALLY_SUCCEEDED,
  Refund_State.FAILED,
  Refund_State.CANCELLED,
];
const FOR_A_PERSON = [Refund_State.NEEDS_REVIEW, Refund_State.AWAITING_APPROVAL];

async function run(gateway: Gateway, store: Store, account: string, order: string): Promise<number> {
  const refundId = store.refundId(order);

  const refund = await refundUntilDecided(gateway, account, order, refundId);
  if (refund === undefined) {
    console.error(`refund ${refundId} is undecided: run the same command again`);
    return UNDECIDED;
  }
  console.log(`created ${refundId} ${Refund_State[refund.state]} ${Refund_MoneyVerdict[refund.moneyVerdict]}`);
  if (FOR_A_PERSON.includes(refund.state)) {
    console.error(`refund ${refundId} waits for a person: run the same command again when they have decided`);
    return UNDECIDED;
  }

  const again = await gateway.createRefund(account, order, refundId);
  console.log(`replayed ${refundId} ${again.replayed}`);
  await showRefusal(gateway, account, refundId);
  await followEvents(gateway, store, refund);
  const validation = await gateway.validationStatus(account, order);
  console.log(`validation ${validation?.orderStatusText}`);

  switch (refund.moneyVerdict) {
    case Refund_MoneyVerdict.MOVED:
      return 0;
    case Refund_MoneyVerdict.NOT_MOVED:
      return NOT_MOVED;
    default:
      return UNDECIDED;
  }
}

// Creates the refund and waits until it is decided or needs a person. After a call without an
// answer it asks again, always under the same id. Undefined: patience has run out.
async function refundUntilDecided(
  gateway: Gateway,
  account: string,
  order: string,
  refundId: string,
): Promise<Refund | undefined> {
  const giveUp = performance.now() + PATIENCE_MS;
  let seen: Refund | undefined;
  while (performance.now() < giveUp) {
    try {
      const response =
        seen === undefined
          ? await gateway.createRefund(account, order, refundId)
          : await gateway.waitRefund(seen);
      seen = response.refund ?? seen;
    } catch (error) {
      const failure = ConnectError.from(error);
      if (!isUnanswered(failure)) {
        throw failure;
      }
      console.error(`no answer about ${refundId} (${Code[failure.code]}): asking again`);
      await sleep(PAUSE_MS);
      continue;
    }
    if (seen !== undefined && (TERMINAL.includes(seen.state) || FOR_A_PERSON.includes(seen.state))) {
      return seen;
    }
  }
  return undefined;
}

// Asks for another order under the same id, which is refused, and prints why.
async function showRefusal(gateway: Gateway, account: string, refundId: string): Promise<void> {
  const failure = await gateway.createRefund(account, "another-order", refundId).then(
    () => {
      throw new Error(`another order was taken under the id ${refundId}`);
    },
    (error: unknown) => ConnectError.from(error),
  );
  const [info] = failure.findDetails(ErrorInfoSchema);
  if (info === undefined) {
    throw failure;
  }
  const differing = info.metadata.differing_fields;
  const violations = failure.findDetails(BadRequestSchema).flatMap((request) => request.fieldViolations);
  const fields = [...(differing === undefined ? [] : [differing]), ...violations.map(({ field }) => field)];
  console.log(`refused ${info.reason} ${fields.join(",")}`);
}

// Prints the refund's events that the store has not seen, then opens the stream once more where it
// ended, as a program does after a restart.
async function followEvents(gateway: Gateway, store: Store, refund: Refund): Promise<void> {
  const seen = await readEvents(gateway, store, refund, 5_000);
  console.log(seen.length === 0 ? "events 0" : `events ${seen.length} ${seen[0]}..${seen.at(-1)}`);
  const after = store.lastSequence;
  await readEvents(gateway, store, refund, 1_000);
  console.log(`resumed after ${after}`);
}

// The sequences of the refund's events after the store's last one, up to its latest revision.
async function readEvents(gateway: Gateway, store: Store, refund: Refund, deadlineMs: number): Promise<bigint[]> {
  const seen: bigint[] = [];
  for await (const event of gateway.events(store.lastSequence, deadlineMs)) {
    if (event.sequence <= store.lastSequence) {
      throw new Error(`event ${event.sequence} came twice`);
    }
    store.lastSequence = event.sequence;
    if (event.refund !== refund.name) {
      continue;
    }
    console.error(`${String(event.sequence).padStart(6)} ${event.note}`);
    seen.push(event.sequence);
    if (event.revision >= refund.revision) {
      break;
    }
  }
  // Only now: after a crash, what was read since the last time comes again.
  store.save();
  return seen;
}

async function main(): Promise<number> {
  const [account, order, path, ...more] = process.argv.slice(2);
  if (account === undefined || order === undefined || path === undefined || more.length > 0) {
    console.error("usage: refund ACCOUNT ORDER STORE");
    return WRONG_USAGE;
  }
  const missing = SETTINGS.filter((name) => process.env[name] === undefined);
  if (missing.length > 0) {
    console.error(missing.map((name) => `${name} is not set`).join("\n"));
    return WRONG_USAGE;
  }
  try {
    return await run(Gateway.fromEnvironment(), new Store(path), account, order);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return REFUSED;
  }
}

process.exit(await main());
