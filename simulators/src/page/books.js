// The books and what the audit says of them.

import { Refusal, inWorld } from "./control.js";
import { element, empty, fill, moment, money, table, words } from "./element.js";

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
  const isClean = audit.verdict === "clean";
  const findings = Object.entries(audit).filter(([, found]) => Array.isArray(found) && found.length);
  return [
    element("p", {}, "Verdict: ", element("strong", { class: isClean ? "good" : "bad" }, audit.verdict)),
    ...findings.map(([name, found]) => element("details", { open: !isClean && found.length <= 10 },
      element("summary", {}, `${name.replaceAll("_", " ")}: ${found.length}`),
      element("ul", {}, found.slice(0, 50).map((one) => element("li", {}, words(one)))))),
  ];
}
