// Gates: where requests wait until they are released.

import { Refusal, run, inWorld, values } from "./control.js";
import { POINTS, coordinates } from "./coordinates.js";
import { element, empty, fill, options, table } from "./element.js";
import { point, where } from "./rules.js";

const form = document.getElementById("gate-new");
const list = document.getElementById("gate-list");
let handlers;

export function init(given) {
  handlers = given;
  coordinates(form);
  options(form.elements.point, POINTS);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(async () => {
      const { id } = await inWorld("POST", "gates", {}, values(form));
      await handlers.refresh();
      return `Gate ${id} was added: requests that reach it wait.`;
    });
  });
  list.addEventListener("click", (event) => {
    const { gate, request, action } = event.target.dataset;
    if (!gate) return;
    run(async () => {
      if (action === "remove") await inWorld("DELETE", `gates/${encodeURIComponent(gate)}`);
      else await inWorld("POST", `gates/${encodeURIComponent(gate)}/release`, {}, { request: Number(request) });
      await handlers.refresh();
      document.getElementById("gates-title").focus();
      return action === "remove" ? `Gate ${gate} was removed.` : `Request ${request} continues.`;
    });
  });
}

export async function refresh() {
  let entries;
  try {
    ({ entries } = await inWorld("GET", "gates"));
  } catch (error) {
    if (!(error instanceof Refusal) || error.status !== 404) throw error;
    document.getElementById("gates").hidden = true;
    return;
  }
  if (!entries.length) return fill(list, empty("There are no gates."));
  const button = (gate, action, words, label, request) =>
    element("button", { type: "button", "data-gate": gate, "data-action": action, "data-request": request, "aria-label": label }, words);
  const rows = entries.map(({ id, gate, waiting, released }) => [
    id,
    `${where(gate)}: ${point(gate.point)}`,
    element("span", {}, waiting.length
      ? waiting.map(({ request, target }) =>
        button(id, "release", `Release ${request}`, `Release request ${request} for ${target ?? "no target"}`, request))
      : "none"),
    released,
    button(id, "remove", "Remove", `Remove gate ${id}`),
  ]);
  fill(list, table(["#No.", "Where", "Waiting", "#Released", ""], rows));
}
