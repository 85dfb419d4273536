// The page: which world is shown, and a look at it every second. Each part is a file of its own;
// all of them use the control calls that everybody has.

import * as books from "./books.js";
import * as clock from "./clock.js";
import { chosen } from "./control.js";
import * as gates from "./gates.js";
import * as journal from "./journal.js";
import * as orders from "./orders.js";
import * as rules from "./rules.js";
import * as worlds from "./worlds.js";

const PARTS = [worlds, clock, rules, gates, journal, books, orders];
/** Between two looks, in milliseconds. */
const PAUSE = 1000;

let looking = null;
let again = false;

/** Looks at everything now, and once more if something was done meanwhile. */
export function look() {
  if (looking) {
    again = true;
    return looking;
  }
  looking = lookOnce().finally(() => {
    looking = null;
    if (again) {
      again = false;
      look();
    }
  });
  return looking;
}

async function lookOnce() {
  const connection = document.getElementById("connection");
  const world = chosen.world;
  try {
    await worlds.look();
    await Promise.all(PARTS.slice(1).map((part) => part.look(world)));
    connection.textContent = "live";
    connection.classList.remove("lost");
  } catch (error) {
    // Another world was chosen meanwhile, or this one was deleted: the next look tells.
    if (world !== chosen.world) return;
    connection.textContent = error.status ? error.message : "no connection to the control port";
    connection.classList.add("lost");
  }
}

function choose(world) {
  chosen.world = world;
  for (const part of PARTS) part.forget?.();
  return look();
}

async function live() {
  if (!document.hidden) await look();
  setTimeout(live, PAUSE);
}

for (const part of PARTS) part.begin({ look, choose });
document.addEventListener("visibilitychange", () => document.hidden || look());
live();
