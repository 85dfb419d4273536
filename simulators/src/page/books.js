// The books and what the audit says of them.

import { Refusal, inWorld } from "./control.js";
import { element, empty, fill, moment, money, table } from "./element.js";

/** Lines that are shown; older ones are still behind the control call. */
const SHOWN = 200;

export function begin() {}

export async function look() {
  const [{ entries, dropped }, audit] = await Promise.all([inWorld("GET", "books", { limit: SHOWN }), audited()]);
  const rows = entries.toReversed().map((line) => [
    line.id, moment(line.time), line.kind, line.provider, line.target, money(line.amount_minor, line.currency), line.identifier ?? "–",
    line.journal_id ?? "–",
  ]);
  const list = table(["#No.", "Time", "Effect", "Provider", "Target", "#Amount", "Identifier", "#Request"], rows);
  fill(document.getElementById("book-list"), rows.length ? list : empty("Nothing has happened yet."),
    dropped ? empty(`${dropped} older lines were dropped.`) : "");
  fill(document.getElementById("audit"), verdict(audit));
  const badge = document.getElementById("verdict-short");
  badge.textContent = audit ? `audit: ${audit.verdict}` : "";
  badge.className = `badge ${audit?.verdict === "clean" ? "good" : "bad"}`;
}

async function audited() {
  try {
    return await inWorld("GET", "audit");
  } catch (error) {
    if (error instanceof Refusal && error.status === 404) return null;
    throw error;
  }
}

function verdict(audit) {
  if (!audit) return "";
  const { violations, totals, suspected_resends: resends } = audit;
  const isClean = audit.verdict === "clean";
  const parts = [element("p", {}, "Verdict: ", element("strong", { class: isClean ? "good" : "bad" }, audit.verdict),
    ` over ${audit.effects} effects`, resends.length ? `; suspected re-sends: requests ${resends.join(", ")}` : "")];
  if (violations.length) {
    parts.push(element("ul", {}, violations.slice(0, SHOWN).map((one) => element("li", {}, element("code", {}, one.kind), ` ${one.sentence}`))));
  }
  if (totals.length) {
    parts.push(element("details", {}, element("summary", {}, "Totals per account"),
      table(["Provider", "Account", "#Refunds", "#Refunded", "#Fees", "#Rejected"], totals.map((total) => [
        total.provider, total.account ?? "–", total.refunds, money(total.refunded_minor, total.currency),
        money(total.fees_minor, total.currency), total.rejected]))));
  }
  return parts;
}
