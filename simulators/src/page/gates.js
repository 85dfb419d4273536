// Gates: where requests wait until somebody lets them on.

import { Refusal, act, inWorld, values } from "./control.js";
import { POINTS, coordinates } from "./coordinates.js";
import { element, empty, fill, options, table } from "./element.js";
import { point, where } from "./rules.js";

const form = document.getElementById("gate-new");
const list = document.getElementById("gate-list");
let page;

export function begin(with_) {
  page = with_;
  coordinates(form);
  options(form.elements.point, POINTS);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act(async () => {
      const { id } = await inWorld("POST", "gates", {}, values(form));
      await page.look();
      return `Gate ${id} is set up: what comes to it waits.`;
    });
  });
  list.addEventListener("click", (event) => {
    const { gate, request, action } = event.target.dataset;
    if (!gate) return;
    act(async () => {
      if (action === "remove") await inWorld("DELETE", `gates/${encodeURIComponent(gate)}`);
      else await inWorld("POST", `gates/${encodeURIComponent(gate)}/release`, {}, { request: Number(request) });
      await page.look();
      document.getElementById("gates-title").focus();
      return action === "remove" ? `Gate ${gate} is gone.` : `Request ${request} goes on.`;
    });
  });
}

export async function look() {
  let entries;
  try {
    ({ entries } = await inWorld("GET", "gates"));
  } catch (error) {
    if (!(error instanceof Refusal) || error.status !== 404) throw error;
    document.getElementById("gates").hidden = true;
    return;
  }
  if (!entries.length) return fill(list, empty("No gate is set up."));
  const button = (gate, action, words, label, request) =>
    element("button", { type: "button", "data-gate": gate, "data-action": action, "data-request": request, "aria-label": label }, words);
  const rows = entries.map(({ id, gate, waiting, released }) => [
    id,
    `${where(gate)}: ${point(gate.point)}`,
    element("span", {}, waiting.length
      ? waiting.map(({ request, target }) =>
        button(id, "release", `Release ${request}`, `Release request ${request} for ${target ?? "nothing"}`, request))
      : "nobody"),
    released,
    button(id, "remove", "Remove", `Remove gate ${id}`),
  ]);
  fill(list, table(["#No.", "Where", "Waiting", "#Let go", ""], rows));
}
