// Worlds: the list, creating, resetting and deleting them, and their credentials.

import { run, call, chosen, inWorld, values } from "./control.js";
import { element, fill, moment, table } from "./element.js";

const list = document.getElementById("world-list");
const select = document.getElementById("world");
let handlers;

export function init(given) {
  handlers = given;
  select.addEventListener("change", () => handlers.choose(select.value));
  document.getElementById("world-new").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    run(async () => {
      const { own_ports, ...given } = values(form);
      const world = await call("POST", "/v1/worlds", { ...given, own_ports: own_ports !== undefined });
      form.reset();
      await handlers.choose(world.id);
      return `World ${world.id} was created and is now shown.`;
    });
  });
  document.getElementById("world-reset").addEventListener("click", () =>
    run(async () => {
      const world = chosen.world;
      await inWorld("POST", "reset");
      await handlers.choose(world);
      return `World ${world} was reset.`;
    }));
  // One listener for all rows, so that rows can be replaced at any time.
  list.addEventListener("click", (event) => {
    const { world, action } = event.target.dataset;
    if (action === "show") handlers.choose(world);
    if (action === "delete") remove(world);
  });
}

export async function refresh() {
  const { entries } = await call("GET", "/v1/worlds");
  if (!entries.some((world) => world.id === chosen.world)) {
    handlers.choose("demo");
  }
  fill(select, entries.map((world) =>
    element("option", { value: world.id }, world.name ? `${world.id}: ${world.name}` : world.id)));
  select.value = chosen.world;
  fill(list, table(["World", "Name", "Created", ""], entries.map(row), (at) =>
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
  run(async () => {
    await call("DELETE", `/v1/worlds/${encodeURIComponent(world)}`);
    await (world === chosen.world ? handlers.choose("demo") : handlers.refresh());
    // The button that had the focus was removed.
    document.getElementById("worlds-title").focus();
    return `World ${world} was deleted.`;
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
