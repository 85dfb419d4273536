// Tests the simulators' page in a real browser with the real binary.
//
//   npm install --prefix DIR playwright-core
//   NODE_PATH=DIR/node_modules node tests/page/page.test.mjs
//
// Needs Node 20, playwright-core and Chromium: CHROMIUM, or one of the paths below. If one of them
// is missing, the tests are skipped with a message, unless BROWSER=required. SIMULATORS is the path
// of the binary, which is built if it is not set. SCREENSHOTS is a folder for screenshots.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const BROWSERS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", "/snap/bin/chromium"];
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
/** Text that would run a script if it were parsed as HTML. */
const HOSTILE = `<img src=x onerror="document.title='taken'">`;

const missing = [];
const executablePath = [process.env.CHROMIUM, ...BROWSERS].find((path) => path && existsSync(path));
if (!executablePath) missing.push("no Chromium is installed");
let chromium;
try {
  ({ chromium } = createRequire(import.meta.url)("playwright-core"));
} catch {
  missing.push("playwright-core is not on NODE_PATH");
}
if (missing.length && process.env.BROWSER === "required") {
  throw new Error(`the page cannot be tested: ${missing.join(", ")}`);
}
const skip = missing.length ? `SKIPPED: the page was not tested, as ${missing.join(" and ")}` : false;
if (skip) console.log(skip);

let folder, simulators, addresses, browser, page;
/** Errors and warnings of the browser, including policy violations and script errors. */
const browserErrors = [];
let world;

// The simulators stop with this process, however it ends.
process.once("exit", () => simulators?.kill("SIGKILL"));

before(async () => {
  if (skip) return;
  folder = mkdtempSync(join(tmpdir(), "simulators-page-"));
  ({ simulators, addresses } = await start());
  browser = await chromium.launch({ executablePath, args: FLAGS });
  page = await browser.newPage({ viewport: { width: 1500, height: 1100 } });
  page.setDefaultTimeout(15_000);
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && browserErrors.push(message.text()));
  page.on("pageerror", (error) => browserErrors.push(String(error)));
});

after(async () => {
  await browser?.close();
  if (simulators) {
    const ended = new Promise((resolve) => simulators.once("exit", resolve));
    simulators.kill("SIGTERM");
    assert.equal(await ended, 0, "SIGTERM stops it with status 0");
  }
  if (folder) rmSync(folder, { recursive: true, force: true });
});

test("the page has a strict policy and loads nothing from other servers", { skip }, async () => {
  const requested = [];
  page.on("request", (request) => requested.push(request.url()));
  const response = await page.goto(`http://${addresses.control}/`);
  const policy = response.headers()["content-security-policy"];
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  await page.getByText("live", { exact: true }).waitFor();
  const foreign = requested.filter((url) => !url.startsWith(`http://${addresses.control}/`) && !url.startsWith("data:"));
  assert.deepEqual(foreign, []);
  await screenshot("start");
});

test("a world is created and its credentials are shown", { skip }, async () => {
  const form = page.locator("#world-new");
  await form.locator("[name=name]").fill(`acceptance ${HOSTILE}`);
  await form.getByRole("button", { name: "Create world" }).press("Enter");
  await message(/^World (\S+) was created and is now shown\.$/);
  const id = await page.locator("#world").inputValue();
  assert.notEqual(id, "demo");
  const secrets = await page.locator("#credentials tbody tr").evaluateAll((rows) =>
    Object.fromEntries(rows.map((row) => [row.cells[0].textContent, [row.cells[1].textContent, row.cells[2].textContent]])));
  assert.deepEqual(Object.keys(secrets), ["Sectigo", "name.com", "Debitsuccess"]);
  world = { id, secrets };
});

test("a rule armed with the form drops the answer of a refund that is carried out", { skip }, async () => {
  const form = page.locator("#rule-new");
  await form.locator("[name=provider]").selectOption({ label: "name.com" });
  await form.locator("[name=operation]").selectOption("ProcessRefund");
  await form.locator("[name=target]").fill("200007");
  await form.locator("[name=attempt]").fill("1");
  await form.locator("[name=point]").selectOption("after_effect");
  await form.locator("[name=effect]").selectOption("close");
  await form.getByRole("button", { name: "Arm rule" }).click();
  await message(/^Rule 1 is armed\.$/);
  await row("#rule-list", "200007").filter({ hasText: "never" }).waitFor();

  await assert.rejects(refund(200007), "the rule drops the answer");

  const entry = row("#journal-table", "200007");
  await entry.filter({ hasText: /closed/ }).waitFor();
  await entry.filter({ hasText: "book 1" }).waitFor();
  await row("#book-list", "3200007").filter({ hasText: "12.99 USD" }).waitFor();
  await row("#rule-list", "200007").filter({ hasText: "once" }).waitFor();
  await entry.getByRole("button", { name: /Details/ }).press("Enter");
  await page.locator("#journal-table pre").first().filter({ hasText: '"ending"' }).waitFor();
  await page.locator("#audit").filter({ hasText: "violations" }).waitFor();
  await screenshot("lost answer");
});

test("a new request appears in the journal, and open details stay open", { skip }, async () => {
  const [status] = await refund(200008);
  assert.equal(status, 200);
  await row("#journal-table", "200008").filter({ hasText: "200" }).waitFor();
  assert.equal(await page.locator('#journal-table button[aria-expanded="true"]').count(), 1);
  const first = await page.locator("#journal-table tbody tr").first().textContent();
  assert.match(first, /200008/, "the newest is first");
});

test("hostile text stays text", { skip }, async () => {
  await refundAtDebitsuccess(HOSTILE);
  await row("#journal-table", HOSTILE).first().waitFor();
  assert.equal(await page.title(), "Simulators");
  assert.equal(await page.locator("img").count(), 0);
});

test("the clock is paused, jumps and runs on", { skip }, async () => {
  const now = page.locator("#clock-now");
  await page.getByRole("button", { name: "Pause the clock" }).click();
  await now.filter({ hasText: "paused" }).waitFor();
  const before_ = await clock();
  assert.equal(before_.running, false);
  await page.getByLabel("Jump forward by").fill("3");
  await page.getByLabel("Unit").selectOption({ label: "days" });
  await page.getByRole("button", { name: "Jump", exact: true }).click();
  await message(/^The clock jumped to /);
  const after_ = await clock();
  assert.equal(new Date(after_.now) - new Date(before_.now), 3 * 86_400_000);
  await now.filter({ hasText: after_.now.slice(0, 10) }).waitFor();
  await page.getByRole("button", { name: "Run the clock" }).click();
  await now.filter({ hasNotText: "paused" }).waitFor();
  assert.equal((await clock()).running, true);
});

test("a request waits at a gate until it is released", { skip }, async () => {
  const form = page.locator("#gate-new");
  await form.locator("[name=provider]").selectOption({ label: "name.com" });
  await form.locator("[name=target]").fill("200010");
  await form.locator("[name=point]").selectOption("before_effect");
  await form.getByRole("button", { name: "Add gate" }).click();
  const waiting = refund(200010);
  const release = page.locator("#gate-list").getByRole("button", { name: /^Release request \d+ for 200010/ });
  await release.waitFor();
  await row("#journal-table", "200010").filter({ hasText: "open" }).waitFor();
  await screenshot("gate");
  await release.press("Enter");
  assert.equal((await waiting)[0], 200);
  await row("#journal-table", "200010").filter({ hasText: "kept alive" }).waitFor();
});

test("a rule is disarmed with the keyboard, and a wrong rule shows the sentence of the control port", { skip }, async () => {
  await page.getByRole("button", { name: "Disarm rule 1" }).press("Enter");
  await message(/^Rule 1 is disarmed; it fired once\.$/);
  const form = page.locator("#rule-new");
  await form.locator("[name=effect]").selectOption("answer");
  await form.locator("[name=status]").fill("42");
  await form.getByRole("button", { name: "Arm rule" }).click();
  await message(/status.* is 200 to 599/);
});

test("orders, accounts and refunds are listed", { skip }, async () => {
  const kind = page.locator("#order-filter").getByLabel("List");
  await row("#order-list", "1000001").waitFor();
  await kind.selectOption({ label: "name.com: orders" });
  await row("#order-list", "123456").waitFor();
  await page.locator("#order-filter").getByLabel("After").fill("200006");
  await page.locator("#order-filter").getByRole("button", { name: "Show" }).click();
  await row("#order-list", "200007").filter({ hasText: "refunded" }).waitFor();
  await kind.selectOption({ label: "Debitsuccess: accounts" });
  await row("#order-list", "DS000001").filter({ hasText: "500.00 AUD" }).waitFor();
  await screenshot("orders");
});

test("a world has its own ports, and a rule closes one of them", { skip }, async () => {
  await page.locator("#world-new [name=own_ports]").check();
  await page.getByRole("button", { name: "Create world" }).click();
  await message(/^World (\S+) was created and is now shown\.$/);
  const id = await page.locator("#world").inputValue();
  const port = await page.locator("#credentials tbody tr").nth(1).evaluate((row) => row.cells[3].textContent);
  // A new connection each time, because existing ones are not affected.
  const reach = () => new Promise((resolve) => {
    const [host, number] = port.split(":");
    const socket = connect(Number(number), host, () => resolve("reached"));
    socket.once("error", (error) => resolve(error.code)).once("connect", () => socket.destroy());
  });
  assert.equal(await reach(), "reached");
  const form = page.locator("#rule-new");
  await form.evaluate((form) => form.reset());
  await form.locator("[name=provider]").selectOption({ label: "name.com" });
  await form.locator("[name=operation]").selectOption("");
  await form.locator("[name=effect]").selectOption("refuse");
  assert.equal(await form.locator("[name=point]").inputValue(), "connect");
  await form.getByRole("button", { name: "Arm rule" }).click();
  await message(/^Rule 1 is armed\.$/);
  assert.equal(await reach(), "ECONNREFUSED");
  await page.locator("#rule-list button").first().click();
  await message(/^Rule 1 (?!is armed)/);
  assert.equal(await reach(), "reached");
  await page.getByRole("button", { name: `Delete world ${id}` }).click();
  await message(/was deleted/);
  await page.locator("#world").selectOption(world.id);
});

test("another world shows nothing of this one, and a world can be deleted", { skip }, async () => {
  await page.locator("#world").selectOption("demo");
  await page.locator("#book-list").filter({ hasText: "Nothing has happened yet." }).waitFor();
  assert.equal(await page.locator("#journal-table tbody tr").count(), 0);
  await page.getByRole("button", { name: `Delete world ${world.id}` }).click();
  await message(new RegExp(`^World ${world.id} was deleted`));
  assert.equal(await page.locator("#world option").count(), 1);
});

test("every control has a name, and a narrow window needs no sideways scrolling", { skip }, async () => {
  const unnamed = await page.locator("input, select, textarea, button, a").evaluateAll((all) =>
    all.filter((one) => !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim()).map((one) => one.outerHTML));
  assert.deepEqual(unnamed, []);
  const ids = await page.locator("[id]").evaluateAll((all) => all.map((one) => one.id));
  assert.equal(new Set(ids).size, ids.length);
  await page.setViewportSize({ width: 400, height: 800 });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(overflow <= 0, `${overflow} pixels too wide`);
  await screenshot("narrow");
});

test("the browser reports no errors except the provoked ones", { skip }, () => {
  // The browser reports the 400 of the refused rule.
  assert.deepEqual(browserErrors.filter((text) => !text.includes("status of 400")), []);
});

/** Starts the binary on free ports and reads their addresses. */
function start() {
  const binary = process.env.SIMULATORS ?? build();
  const ports = ["control", "sectigo", "sectigo-plaintext", "namecom", "namecom-plaintext", "debitsuccess", "debitsuccess-plaintext"];
  const flags = [...ports.flatMap((port) => [`--${port}`, "127.0.0.1:0"]), "--ca-file", join(folder, "ca.pem")];
  const running = spawn(binary, flags, { stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    let text = "";
    running.once("error", reject);
    running.once("exit", (status) => reject(new Error(`the simulators ended with ${status}`)));
    running.stdout.on("data", (part) => {
      text += part;
      if (!/^ready$/m.test(text)) return;
      running.removeAllListeners("exit");
      const at = (name) => new RegExp(`^${name}\\s+https?://([^/\\s]+)`, "m").exec(text)[1];
      resolve({ simulators: running, addresses: { control: at("control"), namecom: at("name\\.com plaintext"), debitsuccess: at("Debitsuccess plaintext") } });
    });
  });
}

/** Builds the binary and returns its path. */
function build() {
  const output = execFileSync("cargo", ["build", "--quiet", "--package", "simulators", "--bin", "simulators", "--message-format=json"],
    { cwd: ROOT, encoding: "utf8", maxBuffer: 1 << 28 });
  const artifacts = output.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  return artifacts.findLast((artifact) => artifact.executable).executable;
}

/** A refund at name.com with the world's credentials: status and answer. */
async function refund(order) {
  const [username, token] = world.secrets["name.com"];
  const response = await fetch(`http://${addresses.namecom}/core/v1/refund`, {
    method: "POST",
    headers: {
      authorization: `Basic ${Buffer.from(`${username}:${token}`).toString("base64")}`,
      "content-type": "application/json",
      "x-idempotency-key": `key-${order}`,
    },
    body: JSON.stringify({ orderId: order, orderItemIds: [3_000_000 + order] }),
  });
  return [response.status, await response.text()];
}

/** A refund request to Debitsuccess for an account of this name. */
async function refundAtDebitsuccess(account) {
  const text = (value) => value.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const [username, password] = world.secrets.Debitsuccess;
  await fetch(`http://${addresses.debitsuccess}/DSWebService/DSServices.svc`, {
    method: "POST",
    headers: { "content-type": "text/xml; charset=utf-8", soapaction: '"http://tempuri.org/IDSServices/InitiateRefund"' },
    body: `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><InitiateRefund xmlns="http://tempuri.org/">
      <request xmlns:d="http://schemas.datacontract.org/2004/07/DSWebService">
      <d:User><d:Password>${text(password)}</d:Password><d:Username>${text(username)}</d:Username></d:User>
      <d:AccountReferenceNo>${text(account)}</d:AccountReferenceNo><d:Amount>1.00</d:Amount><d:Description>x</d:Description>
      </request></InitiateRefund></s:Body></s:Envelope>`,
  });
}

async function clock() {
  return (await fetch(`http://${addresses.control}/v1/worlds/${world.id}/clock`)).json();
}

function row(list, text) {
  return page.locator(`${list} tbody tr`).filter({ hasText: text });
}

async function message(what) {
  await page.locator("#message").filter({ hasText: what }).waitFor();
}

async function screenshot(name) {
  if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name.replaceAll(" ", "-")}.png`), fullPage: true });
}
