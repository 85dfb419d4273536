// The journal, live: the requests, newest first. Each refresh fetches the entries after the last
// one, and entries again that were still open.

import { run, inWorld, values } from "./control.js";
import { PROVIDERS } from "./coordinates.js";
import { element, moment, options, words } from "./element.js";

/** Maximum number of rows; the control call returns older ones too. */
const MAX_ROWS = 200;

const form = document.getElementById("journal-filter");
const body = document.querySelector("#journal-table tbody");
const pause = document.getElementById("journal-pause");

/** The rows by the id of their entry. */
let rows = new Map();
/** The last id that is shown; null before the first refresh. */
let last = null;
let paused = false;

export function init({ refresh: refreshPage }) {
  options(form.elements.provider, [["", "all"], ...PROVIDERS]);
  const startOver = () => {
    clear();
    run(refreshPage);
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", startOver);
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) refreshPage();
  });
}

export function clear() {
  rows = new Map();
  last = null;
  body.replaceChildren();
}

export async function refresh(world) {
  if (paused) return;
  const current = rows;
  const open = [...rows.values()].filter((row) => row.entry.ending === "open").map((row) => row.entry.id);
  const after = last === null ? undefined : Math.min(last, ...open.map((id) => id - 1));
  const { entries, dropped } = await inWorld("GET", "journal", { ...values(form), after, limit: MAX_ROWS });
  // Another world or filter was chosen in the meantime.
  if (current !== rows) return;
  if (after !== undefined && entries.length === 0 && last > 0) await clearIfReset(current);
  for (const entry of entries) show(entry);
  last = Math.max(last ?? 0, ...entries.map((entry) => entry.id));
  for (const id of [...rows.keys()].sort((a, b) => a - b).slice(0, -MAX_ROWS)) remove(id);
  document.getElementById("journal-count").textContent =
    `${rows.size} shown${dropped ? `, ${dropped} older ones no longer kept` : ""}`;
}

/** After a reset by another client the ids start at 1 again. */
async function clearIfReset(current) {
  const { entries } = await inWorld("GET", "journal", { limit: 1 });
  if (current === rows && (entries[0]?.id ?? 0) < last && Object.keys(values(form)).length === 0) clear();
}

function show(entry) {
  const known = rows.get(entry.id);
  const text = JSON.stringify(entry);
  if (known?.text === text) return;
  const isOpen = known?.details !== undefined && known.details.isConnected;
  const row = element("tr", { "data-entry": entry.id }, cells(entry));
  const made = { entry, text, row };
  if (known) {
    known.details?.remove();
    known.row.replaceWith(row);
  } else {
    body.prepend(row);
  }
  rows.set(entry.id, made);
  row.querySelector("button").addEventListener("click", () => toggle(made));
  if (isOpen) toggle(made);
}

function remove(id) {
  const row = rows.get(id);
  row.row.remove();
  row.details?.remove();
  rows.delete(id);
}

function cells(entry) {
  const marks = [];
  if (entry.destructive) marks.push(element("strong", { class: "bad" }, " trap"));
  if (entry.suspected_resend_of) marks.push(element("strong", { class: "warn" }, ` re-send of ${words(entry.suspected_resend_of)}?`));
  const answer = entry.status === null || entry.status === undefined ? "none" : `${entry.status} ${firstLine(entry.answer)}`;
  return [
    element("td", { class: "number" }, entry.id),
    element("td", { class: "short" }, moment(entry.time).slice(11, 23)),
    element("td", {}, call(entry), marks),
    element("td", {}, entry.target ?? "–"),
    element("td", { class: "number" }, entry.attempt),
    element("td", { class: "short" }, `${entry.connection}.${entry.ordinal}`),
    element("td", { class: entry.rules?.length && "warn" }, entry.rules?.length ? entry.rules.join(", ") : "–"),
    element("td", { class: entry.effects?.length && "good" }, entry.effects?.length ? entry.effects.map((id) => `book ${id}`).join(", ") : "–"),
    element("td", {}, answer),
    element("td", { class: /^(kept_alive|closed_after_answer|open)$/.test(entry.ending) ? "" : "bad" }, words(entry.ending).replaceAll("_", " ")),
    element("td", {}, element("button", { type: "button", "aria-expanded": "false", "aria-label": `Details of request ${entry.id}` }, "Details")),
  ];
}

/** The provider's own name for the call, or else method and path. */
function call({ provider, operation, method, path }) {
  return operation ? element("span", { class: "short" }, operation) : `${provider}: ${method} ${path}`;
}

function toggle(shown) {
  const button = shown.row.querySelector("button");
  const expands = button.getAttribute("aria-expanded") === "false";
  button.setAttribute("aria-expanded", String(expands));
  if (!expands) {
    shown.details.remove();
    return;
  }
  const { answer, body, ...rest } = shown.entry;
  shown.details = element("tr", {}, element("td", { colspan: 11 },
    element("pre", { tabindex: 0, "aria-label": "The entry" }, JSON.stringify(rest, null, 2)),
    body ? element("pre", { tabindex: 0, "aria-label": "The body of the request" }, body) : "",
    answer ? element("pre", { tabindex: 0, "aria-label": "The answer" }, answer) : ""));
  shown.row.after(shown.details);
}

function firstLine(text) {
  const line = (text ?? "").split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 60)}…` : line;
}
