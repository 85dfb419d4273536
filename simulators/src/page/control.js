// Calls of the control port: the same JSON calls that every client makes.

/** A refusal by the control port, with its sentence. */
export class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** The world that the page shows. */
export const chosen = { world: "demo" };

/** A call about the process or about all worlds. */
export async function call(method, path, body) {
  const response = await fetch(path, {
    method,
    cache: "no-store",
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  let answer;
  try {
    answer = text === "" ? null : JSON.parse(text);
  } catch {
    throw new Refusal(response.status, `${method} ${path} answered ${response.status} without JSON`);
  }
  if (!response.ok) throw new Refusal(response.status, answer?.error ?? `${method} ${path} answered ${response.status}`);
  return answer;
}

/** A call about the chosen world: `inWorld("GET", "books", {limit: 10})`. */
export function inWorld(method, name, query, body) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const tail = given.length ? `?${new URLSearchParams(given)}` : "";
  return call(method, `/v1/worlds/${encodeURIComponent(chosen.world)}/${name}${tail}`, body);
}

/** Shows what was done, or why it was not. */
export function showMessage(sentence, isRefusal = false) {
  const place = document.getElementById("message");
  place.textContent = sentence;
  place.classList.toggle("refused", isRefusal);
}

/** Runs the action of a button or a form, and shows its result. */
export async function run(action) {
  try {
    const sentence = await action();
    showMessage(sentence ?? "");
  } catch (error) {
    showMessage(error instanceof Refusal ? error.message : `That did not work: ${error.message}`, true);
  }
}

/** The values of a form without the empty ones. */
export function values(form) {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
}
