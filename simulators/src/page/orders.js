// Orders, accounts and refunds of the world, one page at a time.

import { run, inWorld, values } from "./control.js";
import { element, empty, fill, moment, money, options, table } from "./element.js";

const PAGE_SIZE = 25;

/** By the control call: label, headings, cells of a row, and the key that the next page follows. */
const KINDS = {
  "sectigo/orders": ["Sectigo: orders", ["Order", "Account", "Status", "#Price", "Bought", "Refunded"], (order) =>
    [order.order_number, order.account, order.validation?.orderStatus, money(order.price_minor, order.currency),
      order.purchased_at && moment(order.purchased_at, 0), order.refunded_at ? moment(order.refunded_at, 0) : "–"], (order) => order.order_number],
  "namecom/orders": ["name.com: orders", ["Order", "Account", "Placed", "Items"], (order) =>
    [order.id, order.account, order.created && moment(order.created, 0), items(order.items)], (order) => order.id],
  "debitsuccess/accounts": ["Debitsuccess: accounts", ["Account", "External reference", "#Collected"], (account) =>
    [account.account_reference_no, account.external_account_reference_no, money(account.collected_minor, account.currency)],
  (account) => account.account_reference_no],
  "debitsuccess/refunds": ["Debitsuccess: refunds", ["#Number", "Identifier", "Account", "#Amount", "Status", "Recorded"], (refund) =>
    [refund.number, refund.identifier, refund.account, money(refund.amount_minor, refund.currency), refund.status, moment(refund.created, 0)],
  (refund) => refund.number],
};

const form = document.getElementById("order-filter");
let lastKey = null;

export function init({ refresh: refreshPage }) {
  options(form.elements.kind, Object.entries(KINDS).map(([path, [label]]) => [path, label]));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(refreshPage);
  });
  form.elements.kind.addEventListener("change", () => {
    form.elements.after.value = "";
    run(refreshPage);
  });
  document.getElementById("order-more").addEventListener("click", () => {
    form.elements.after.value = lastKey ?? "";
    run(refreshPage);
  });
}

export function clear() {
  form.elements.after.value = "";
}

export async function refresh() {
  const { kind, after } = values(form);
  const [, headings, cells, key] = KINDS[kind];
  const place = document.getElementById("order-list");
  // A key that is not valid (yet): the list stays as it is, and the field says why.
  let listed;
  try {
    listed = await inWorld("GET", kind, { after, limit: PAGE_SIZE });
    form.elements.after.setCustomValidity("");
  } catch (error) {
    if (error.status !== 400) throw error;
    form.elements.after.setCustomValidity(error.message);
    return;
  }
  const { entries, total } = listed;
  lastKey = entries.length ? key(entries.at(-1)) : null;
  document.getElementById("order-count").textContent = `${entries.length} of ${total}`;
  fill(place, entries.length ? table(headings, entries.map((entry) => cells(entry).map((cell) => cell ?? "–"))) : empty("None."));
}

function items(list) {
  return element("span", {}, (list ?? []).map((item, at) =>
    `${at ? "; " : ""}${item.id} ${item.type} ${item.name ?? ""} ${money(item.price_minor, "USD")} ${item.status}`));
}
