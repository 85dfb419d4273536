// The coordinates of rules and gates: providers, their calls, and the points of a request.

import { options } from "./element.js";

export const PROVIDERS = [["sectigo", "Sectigo"], ["namecom", "name.com"], ["debitsuccess", "Debitsuccess"]];

const CALLS = {
  sectigo: ["!AutoRefund", "!getPostPaymentStatus", "!AutoReject"],
  namecom: ["ProcessRefund", "GetOrder", "ListOrders", "GetDomain", "Hello"],
  debitsuccess: ["InitiateRefund", "GetRefundStatus"],
};

export const POINTS = [
  ["before_effect", "before the effect"],
  ["after_effect", "after the effect, before the answer"],
  ["during_answer", "during the answer"],
];

/** Fills the selects for provider and call; the calls follow the chosen provider. */
export function coordinates(form) {
  const calls = () =>
    options(form.elements.operation, [["", "any"], ...CALLS[form.elements.provider.value].map((name) => [name, name])]);
  options(form.elements.provider, PROVIDERS);
  form.elements.provider.addEventListener("change", calls);
  form.addEventListener("reset", () => setTimeout(calls));
  calls();
}
