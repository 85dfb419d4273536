// Worlds: the list, a new one, its credentials, its end.

import { act, call, chosen, inWorld, values } from "./control.js";
import { element, fill, moment, table } from "./element.js";

const list = document.getElementById("world-list");
const select = document.getElementById("world");
let page;

export function begin(with_) {
  page = with_;
  select.addEventListener("change", () => page.choose(select.value));
  document.getElementById("world-new").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    act(async () => {
      const { own_ports, ...given } = values(form);
      const world = await call("POST", "/v1/worlds", { ...given, own_ports: own_ports !== undefined });
      form.reset();
      await page.choose(world.id);
      return `World ${world.id} is there, and shown now.`;
    });
  });
  document.getElementById("world-reset").addEventListener("click", () =>
    act(async () => {
      const world = chosen.world;
      await inWorld("POST", "reset");
      await page.choose(world);
      return `World ${world} is as it was at its start.`;
    }));
  // One listener for all rows, so that rows can be made anew at any time.
  list.addEventListener("click", (event) => {
    const { world, action } = event.target.dataset;
    if (action === "show") page.choose(world);
    if (action === "delete") remove(world);
  });
}

export async function look() {
  const { entries } = await call("GET", "/v1/worlds");
  if (!entries.some((world) => world.id === chosen.world)) {
    page.choose("demo");
  }
  fill(select, entries.map((world) =>
    element("option", { value: world.id }, world.name ? `${world.id}: ${world.name}` : world.id)));
  select.value = chosen.world;
  fill(list, table(["World", "Name", "Made", ""], entries.map(row), (at) =>
    ({ class: entries[at].id === chosen.world && "chosen" })));
  const shown = entries.find((world) => world.id === chosen.world);
  fill(document.getElementById("credentials"), shown ? credentials(shown) : "");
}

function row(world) {
  const button = (action, words) =>
    element("button", { type: "button", "data-world": world.id, "data-action": action, "aria-label": `${words} world ${world.id}` }, words);
  const buttons = [button("show", "Show")];
  if (world.id !== "demo") buttons.push(" ", button("delete", "Delete"));
  return [world.id, world.name ?? "–", moment(world.created, 0), element("span", {}, buttons)];
}

function remove(world) {
  act(async () => {
    await call("DELETE", `/v1/worlds/${encodeURIComponent(world)}`);
    await (world === chosen.world ? page.choose("demo") : page.look());
    // The button that had the focus is gone.
    document.getElementById("worlds-title").focus();
    return `World ${world} is gone.`;
  });
}

function credentials({ credentials: { sectigo, namecom, debitsuccess }, ports }) {
  const code = (text) => element("code", { class: "whole" }, text);
  const row = (provider, name, secret, port) =>
    [element("span", { class: "short" }, provider), code(name), code(secret), code(port)];
  return table(["Provider", "Login", "Secret", "Port"], [
    row("Sectigo", sectigo.login_name, sectigo.login_password, ports.sectigo),
    row("name.com", namecom.username, namecom.token, ports.namecom),
    row("Debitsuccess", debitsuccess.username, debitsuccess.password, ports.debitsuccess),
  ]);
}
