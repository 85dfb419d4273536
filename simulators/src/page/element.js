// Elements from values. Text is only ever set as text: nothing that a client sent is parsed as
// HTML.

/**
 * Creates an element. Functions among `properties` are listeners; undefined, null and false ones
 * are left out.
 */
export function element(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().map(shown));
  return made;
}

/** The last content of each element. */
const filled = new WeakMap();

/**
 * Replaces the content of an element if it differs; otherwise focus, selection and open details
 * stay.
 */
export function fill(place, ...children) {
  const next = element(place.localName, {}, ...children);
  const text = next.innerHTML;
  if (filled.get(place) === text) return;
  filled.set(place, text);
  place.replaceChildren(...next.childNodes);
}

/** A table; a cell is a value, or an element. A heading that begins with `#` is for numbers. */
export function table(headings, rows, rowProperties = () => ({})) {
  const isNumber = headings.map((heading) => heading.startsWith("#"));
  const head = headings.map((heading, at) =>
    element("th", { scope: "col", class: isNumber[at] && "number" }, heading.replace(/^#/, "")));
  const body = rows.map((cells, row) => element("tr", rowProperties(row),
    cells.map((cell, at) => element("td", { class: isNumber[at] && "number" }, cell))));
  return element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body));
}

export function empty(sentence) {
  return element("p", { class: "empty" }, sentence);
}

/** The options of a select, from `[value, label]`. */
export function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, words]) => element("option", { value }, words)));
}

/** `2026-01-31 12:00:00.123 UTC` */
export function moment(rfc3339, digits = 3) {
  const parts = /^(.{10})T(.{8})(\.\d+)?(.*)$/.exec(rfc3339 ?? "");
  if (!parts) return shown(rfc3339);
  const fraction = digits ? (parts[3] ?? ".0").padEnd(10, "0").slice(0, digits + 1) : "";
  return `${parts[1]} ${parts[2]}${fraction} ${parts[4] === "Z" ? "UTC" : parts[4]}`;
}

/** `12.34 AUD`, from hundredths, without a division, which could round. */
export function money(minor, currency) {
  if (minor === null || minor === undefined) return "–";
  const digits = String(Math.abs(minor)).padStart(3, "0");
  return `${minor < 0 ? "-" : ""}${digits.slice(0, -2)}.${digits.slice(-2)} ${currency ?? ""}`.trim();
}

/** A value as one line of text. */
export function words(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.map(words).join(", ");
  return Object.entries(value).map(([name, inner]) => `${name} ${words(inner)}`).join(", ");
}

function shown(child) {
  return child instanceof Node ? child : child === null || child === undefined || child === false ? "" : String(child);
}
