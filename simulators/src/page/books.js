// The books and the result of the audit.

import { Refusal, inWorld } from "./control.js";
import { element, empty, fill, moment, money, table } from "./element.js";

/** Maximum number of rows; the control call returns older ones too. */
const MAX_ROWS = 200;

export function init() {}

export async function refresh() {
  const [{ entries, dropped }, audit] = await Promise.all([inWorld("GET", "books", { limit: MAX_ROWS }), fetchAudit()]);
  const rows = entries.toReversed().map((entry) => [
    entry.id, moment(entry.time), entry.kind, entry.provider, entry.target, money(entry.amount_minor, entry.currency), entry.identifier ?? "–",
    entry.journal_id ?? "–",
  ]);
  const list = table(["#No.", "Time", "Effect", "Provider", "Target", "#Amount", "Identifier", "#Request"], rows);
  fill(document.getElementById("book-list"), rows.length ? list : empty("Nothing has happened yet."),
    dropped ? empty(`${dropped} older entries are no longer kept.`) : "");
  fill(document.getElementById("audit"), renderAudit(audit));
  const badge = document.getElementById("verdict-short");
  badge.textContent = audit ? `audit: ${audit.verdict}` : "";
  badge.className = `badge ${audit?.verdict === "clean" ? "good" : "bad"}`;
}

async function fetchAudit() {
  try {
    return await inWorld("GET", "audit");
  } catch (error) {
    if (error instanceof Refusal && error.status === 404) return null;
    throw error;
  }
}

function renderAudit(audit) {
  if (!audit) return "";
  const { violations, totals, suspected_resends: resends } = audit;
  const isClean = audit.verdict === "clean";
  const parts = [element("p", {}, "Verdict: ", element("strong", { class: isClean ? "good" : "bad" }, audit.verdict),
    ` over ${audit.effects} effects`, resends.length ? `; suspected re-sends: requests ${resends.join(", ")}` : "")];
  if (violations.length) {
    parts.push(element("ul", {}, violations.slice(0, MAX_ROWS).map((one) => element("li", {}, element("code", {}, one.kind), ` ${one.sentence}`))));
  }
  if (totals.length) {
    parts.push(element("details", {}, element("summary", {}, "Totals per account"),
      table(["Provider", "Account", "#Refunds", "#Refunded", "#Fees", "#Rejected"], totals.map((total) => [
        total.provider, total.account ?? "–", total.refunds, money(total.refunded_minor, total.currency),
        money(total.fees_minor, total.currency), total.rejected]))));
  }
  return parts;
}
