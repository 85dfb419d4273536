// The clock: its time, pause and run, and jumps.

import { run, inWorld, values } from "./control.js";
import { fill, moment } from "./element.js";

let handlers;

export function init(given) {
  handlers = given;
  document.getElementById("clock-pause").addEventListener("click", () => setRunning(false));
  document.getElementById("clock-run").addEventListener("click", () => setRunning(true));
  document.getElementById("clock-jump").addEventListener("submit", (event) => {
    event.preventDefault();
    const { amount, unit } = values(event.target);
    run(async () => {
      const reading = await inWorld("POST", "clock/advance", {}, { seconds: Number(amount) * Number(unit) });
      await handlers.refresh();
      return `The clock jumped to ${moment(reading.now, 0)}.`;
    });
  });
}

export async function refresh() {
  show(await inWorld("GET", "clock"));
}

function setRunning(running) {
  run(async () => {
    show(await inWorld("PUT", "clock", {}, { running }));
    return running ? "The clock runs." : "The clock is paused.";
  });
}

function show(reading) {
  document.getElementById("clock-now").textContent = `${moment(reading.now, 0)}${reading.running === false ? ", paused" : ""}`;
  const ahead = reading.offset_seconds ? `${duration(reading.offset_seconds)} the system's clock` : "in step with the system's clock";
  fill(document.getElementById("clock-reading"), `${moment(reading.now, 0)}, ${ahead}; ${reading.running === false ? "paused" : "running"}.`);
  document.getElementById("clock-pause").setAttribute("aria-pressed", String(reading.running === false));
  document.getElementById("clock-run").setAttribute("aria-pressed", String(reading.running !== false));
}

function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.abs(Math.round(seconds));
  const parts = [];
  for (const [unit, size] of units) {
    if (left >= size) parts.push(`${Math.floor(left / size)} ${unit}`);
    left %= size;
  }
  return `${parts.join(" ") || "0 s"} ${seconds < 0 ? "behind" : "ahead of"}`;
}
