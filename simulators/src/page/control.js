// The control port, called from the page: the same JSON calls that everybody makes.

/** What the control port refused, in its own sentence. */
export class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** Which world the page shows. */
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
    throw new Refusal(response.status, `${method} ${path} answered ${response.status} and no JSON`);
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

/** Says something to the person: what was done, or why it was not. */
export function say(sentence, isRefusal = false) {
  const place = document.getElementById("said");
  place.textContent = sentence;
  place.classList.toggle("refused", isRefusal);
}

/** Does what a button or a form asks for, and says how it went. */
export async function act(what, done) {
  try {
    const sentence = await what();
    say(sentence ?? done ?? "");
  } catch (error) {
    say(error instanceof Refusal ? error.message : `That did not work: ${error.message}`, true);
  }
}

/** The values of a form; what is empty is left out. */
export function values(form) {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
}
