// What must survive a crash of this program: which refund belongs to which order, and how far the
// event stream has been read. A shop keeps both in its database.

import { randomUUID } from "node:crypto";
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

export class Store {
  readonly #path: string;
  readonly #refunds: Record<string, string>;
  // Not on disk before save.
  lastSequence: bigint;

  constructor(path: string) {
    this.#path = path;
    const content = existsSync(path) ? parse(path) : {};
    this.#refunds = content.refunds ?? {};
    this.lastSequence = BigInt(content.last_sequence ?? 0);
  }

  // The order's refund id. A new one is on disk before it is returned.
  refundId(order: string): string {
    const known = this.#refunds[order];
    if (known !== undefined) {
      return known;
    }
    const id = randomUUID();
    this.#refunds[order] = id;
    this.save();
    return id;
  }

  // A new file replaces the old one at once, so that a crash leaves one of the two.
  save(): void {
    const content = { refunds: this.#refunds, last_sequence: this.lastSequence.toString() };
    const unfinished = `${this.#path}.new`;
    const file = openSync(unfinished, "w");
    writeFileSync(file, JSON.stringify(content, null, 2));
    fsyncSync(file);
    closeSync(file);
    renameSync(unfinished, this.#path);
    const folder = openSync(dirname(this.#path), "r");
    fsyncSync(folder);
    closeSync(folder);
  }
}

function parse(path: string): { refunds?: Record<string, string>; last_sequence?: string } {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new Error(`${path} is not a store: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
}
