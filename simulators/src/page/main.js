// The page: the chosen world, refreshed every second. Each part is one file; all of them use the
// public control calls.

import * as books from "./books.js";
import * as clock from "./clock.js";
import { chosen } from "./control.js";
import * as gates from "./gates.js";
import * as journal from "./journal.js";
import * as orders from "./orders.js";
import * as rules from "./rules.js";
import * as worlds from "./worlds.js";

const PARTS = [worlds, clock, rules, gates, journal, books, orders];
/** Between two refreshes, in milliseconds. */
const INTERVAL = 1000;

let refreshing = null;
let again = false;

/** Refreshes everything now, and once more if this was called again in the meantime. */
export function refresh() {
  if (refreshing) {
    again = true;
    return refreshing;
  }
  refreshing = refreshOnce().finally(() => {
    refreshing = null;
    if (again) {
      again = false;
      refresh();
    }
  });
  return refreshing;
}

async function refreshOnce() {
  const connection = document.getElementById("connection");
  const world = chosen.world;
  try {
    await worlds.refresh();
    await Promise.all(PARTS.slice(1).map((part) => part.refresh(world)));
    connection.textContent = "live";
    connection.classList.remove("lost");
  } catch (error) {
    // Another world was chosen, or this one was deleted: the next refresh shows it.
    if (world !== chosen.world) return;
    connection.textContent = error.status ? error.message : "no connection to the control port";
    connection.classList.add("lost");
  }
}

function choose(world) {
  chosen.world = world;
  for (const part of PARTS) part.clear?.();
  return refresh();
}

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, INTERVAL);
}

for (const part of PARTS) part.init({ refresh, choose });
document.addEventListener("visibilitychange", () => document.hidden || refresh());
poll();
