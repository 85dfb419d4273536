// Rules: a form to arm one, and a list that shows how often each fired and can disarm it.

import { run, inWorld, values } from "./control.js";
import { PROVIDERS, coordinates, POINTS } from "./coordinates.js";
import { element, empty, fill, options, table, words } from "./element.js";

/** The effects: label and fields. A field is `[name, label, default]`; a list is a choice. */
const EFFECTS = {
  reset_peer: ["reset the connection (RST)"],
  close: ["close the connection (FIN)"],
  never_answer: ["never answer"],
  delay: ["wait, then continue", [["milliseconds", "Milliseconds", 1000]]],
  answer: ["replace the answer", [["status", "Status", 503], ["body", "Body", ""], ["content_type", "Content type", "text/plain"]]],
  limit_data: ["cut the answer off", [["after_bytes", "After bytes", 10]]],
  corrupt: ["corrupt the answer", [["bytes", "Bytes", 1]]],
  slicer: ["send the answer in pieces", [["bytes", "Bytes per piece", 1], ["every_milliseconds", "Milliseconds before each", 100]]],
  commit_late: ["answer a timeout, commit later", [["seconds", "Seconds later", 60]]],
  half_way: ["delete the domain, refund nothing"],
  stale: ["lookups show an earlier state", [["seconds", "For seconds", 60]]],
  forged_answer: ["give a false answer", [["forged", "Answer", ["success", "already_refunded", "replay", "initialized", "14143"]]]],
  refuse: ["close the port (ECONNREFUSED)"],
  refuse_tls: ["refuse the TLS handshake"],
};

const REPEATS = {
  once: ["once"],
  times: ["n times", [["times", "Times", 2]]],
  standing: ["as long as it is armed"],
  flap: ["flapping", [["down", "Down", 1], ["up", "Up", 1]]],
};

const RULE_POINTS = [
  ...POINTS,
  ["before_read", "before the request is read"],
  ["connect", "when the connection is accepted"],
];

const form = document.getElementById("rule-new");
const list = document.getElementById("rule-list");
let handlers;

export function init(given) {
  handlers = given;
  coordinates(form);
  options(form.elements.point, RULE_POINTS);
  options(form.elements.effect, Object.entries(EFFECTS).map(([name, [label]]) => [name, label]));
  options(form.elements.repeat, Object.entries(REPEATS).map(([name, [label]]) => [name, label]));
  form.elements.point.value = "after_effect";
  for (const name of ["point", "effect", "repeat"]) form.elements[name].addEventListener("change", fields);
  fields();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(async () => {
      const { id } = await inWorld("POST", "faults", {}, rule(values(form)));
      await handlers.refresh();
      return `Rule ${id} is armed.`;
    });
  });
  list.addEventListener("click", (event) => {
    const id = event.target.dataset.rule;
    if (id) run(async () => {
      const disarmed = await inWorld("DELETE", `faults/${encodeURIComponent(id)}`);
      await handlers.refresh();
      document.getElementById("rules-title").focus();
      return `Rule ${id} is disarmed; it fired ${times(disarmed.fired)}.`;
    });
  });
}

export async function refresh() {
  const { entries } = await inWorld("GET", "faults");
  if (!entries.length) return fill(list, empty("No rule is armed: the simulators answer like the real providers."));
  const rows = entries.map((armed) => [
    armed.id,
    where(armed.rule),
    `${point(armed.rule.point)}: ${effect(armed.rule.effect)}`,
    element("span", { class: armed.fired ? "" : "warn" }, armed.fired ? times(armed.fired) : "never"),
    armed.remaining ?? "standing",
    element("button", { type: "button", "data-rule": armed.id, "aria-label": `Disarm rule ${armed.id}` }, "Disarm"),
  ]);
  fill(list, table(["#No.", "Where", "What", "Fired", "Left", ""], rows));
}

/** Shows the inputs that the chosen point, effect and repetition need. */
function fields() {
  // A closed port has only one point and one repetition.
  if (form.elements.effect.value === "refuse") {
    form.elements.point.value = "connect";
    form.elements.repeat.value = "standing";
  }
  const chosen = { effect: form.elements.effect.value, repeat: form.elements.repeat.value, point: form.elements.point.value };
  const needed = [...(EFFECTS[chosen.effect][1] ?? [])];
  if (chosen.point === "during_answer") needed.unshift(["point_bytes", "After bytes of the body", 0]);
  fill(document.getElementById("effect-fields"), needed.map(input));
  fill(document.getElementById("repeat-fields"), (REPEATS[chosen.repeat][1] ?? []).map(input));
}

function input([name, label, preset]) {
  const made = Array.isArray(preset)
    ? element("select", { name }, preset.map((choice) => element("option", { value: choice }, choice)))
    : name === "body"
      ? element("textarea", { name })
      : element("input", typeof preset === "number" ? { name, type: "number", min: 0, value: preset, required: true } : { name, value: preset });
  return element("label", {}, label, made);
}

/** The rule as the control port takes it, from the form's values. */
function rule(given) {
  const numbers = Object.fromEntries(Object.entries(given).map(([name, value]) => [name, Number(value)]));
  const pick = (names) => Object.fromEntries(names.map((name) => [name, numbers[name]]));
  const effects = {
    delay: () => pick(["milliseconds"]),
    answer: () => ({ status: numbers.status, body: given.body ?? "", headers: { "content-type": given.content_type ?? "text/plain" } }),
    limit_data: () => pick(["after_bytes"]),
    corrupt: () => pick(["bytes"]),
    slicer: () => pick(["bytes", "every_milliseconds"]),
    commit_late: () => pick(["seconds"]),
    stale: () => pick(["seconds"]),
    forged_answer: () => given.forged,
  };
  const repeats = { times: () => numbers.times, flap: () => pick(["down", "up"]) };
  const tagged = (name, makers) => (makers[name] ? { [name]: makers[name]() } : name);
  return {
    provider: given.provider,
    operation: given.operation,
    target: given.target,
    attempt: given.attempt && numbers.attempt,
    point: given.point === "during_answer" ? { during_answer: { after_bytes: numbers.point_bytes } } : given.point,
    effect: tagged(given.effect, effects),
    repeat: tagged(given.repeat, repeats),
    strict: given.strict ? true : undefined,
  };
}

export function where(rule) {
  const provider = Object.fromEntries(PROVIDERS)[rule.provider] ?? words(rule.provider);
  const parts = [provider, rule.operation ?? "any call"];
  if (rule.target) parts.push(`for ${rule.target}`);
  if (rule.attempt) parts.push(`attempt ${rule.attempt}`);
  if (rule.connection) parts.push(`connection ${rule.connection}`);
  if (rule.ordinal) parts.push(`request ${rule.ordinal} of a connection`);
  return parts.join(", ");
}

export function point(value) {
  const [name, inner] = typeof value === "object" && value ? Object.entries(value)[0] : [value, null];
  const label = Object.fromEntries(RULE_POINTS)[name] ?? name;
  return inner ? `${label} (${words(inner)})` : label;
}

function effect(value) {
  const [name, inner] = typeof value === "object" && value ? Object.entries(value)[0] : [value, null];
  const label = EFFECTS[name]?.[0] ?? name;
  return inner === null ? label : `${label} (${words(inner)})`;
}

function times(count) {
  return count === 0 ? "never" : count === 1 ? "once" : `${count} times`;
}
