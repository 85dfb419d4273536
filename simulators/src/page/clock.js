// The clock: what it shows, whether it runs, and the jump.

import { act, inWorld, values } from "./control.js";
import { fill, moment } from "./element.js";

let page;

export function begin(with_) {
  page = with_;
  document.getElementById("clock-stand").addEventListener("click", () => turn(false));
  document.getElementById("clock-run").addEventListener("click", () => turn(true));
  document.getElementById("clock-jump").addEventListener("submit", (event) => {
    event.preventDefault();
    const { amount, unit } = values(event.target);
    act(async () => {
      const reading = await inWorld("POST", "clock/advance", {}, { seconds: Number(amount) * Number(unit) });
      await page.look();
      return `The clock has jumped to ${moment(reading.now, 0)}.`;
    });
  });
}

export async function look() {
  show(await inWorld("GET", "clock"));
}

function turn(running) {
  act(async () => {
    show(await inWorld("PUT", "clock", {}, { running }));
    return running ? "The clock runs." : "The clock stands still.";
  });
}

function show(reading) {
  document.getElementById("clock-now").textContent = `${moment(reading.now, 0)}${reading.running === false ? ", standing still" : ""}`;
  const ahead = reading.offset_seconds ? `${span(reading.offset_seconds)} the system's` : "with the system's";
  fill(document.getElementById("clock-reading"), `${moment(reading.now, 0)}, ${ahead}; it ${reading.running === false ? "stands still" : "runs"}.`);
  document.getElementById("clock-stand").setAttribute("aria-pressed", String(reading.running === false));
  document.getElementById("clock-run").setAttribute("aria-pressed", String(reading.running !== false));
}

function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.abs(Math.round(seconds));
  const parts = [];
  for (const [unit, size] of units) {
    if (left >= size) parts.push(`${Math.floor(left / size)} ${unit}`);
    left %= size;
  }
  return `${parts.join(" ") || "0 s"} ${seconds < 0 ? "behind" : "ahead of"}`;
}
