// Published clients of the JSON endpoint against a running staging gateway, which run.sh starts:
// Connect in Node over HTTP/1.1 and HTTP/2, Connect and gRPC-Web in Chromium, and a validator of
// OpenAPI.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { test } from "node:test";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { Validator } from "@seriousme/openapi-schema-validator";
import { chromium } from "playwright-core";
import { authorize, failure, refund } from "./calls.js";

const baseUrl = process.env.RECOUP_URL;
const token = readFileSync(process.env.RECOUP_TOKEN_FILE, "utf8").trim();
const simulators = process.env.SIMULATORS_URL;
const [allowedPort, foreignPort] = process.env.PAGE_PORTS.split(" ");

const expected = {
  state: "SUCCEEDED",
  createdBy: "staging",
  replayed: true,
  refused: { code: "FailedPrecondition", reason: "TARGET_HAS_REFUND" },
  events: 3,
};

let lastOrder = 1000000;
const nextOrder = () => String((lastOrder += 1));

async function effects(order) {
  const books = await (await fetch(`${simulators}/v1/books`)).json();
  const entries = [];
  const collect = (value) => {
    if (value?.target === order) {
      entries.push(value);
    }
    if (value !== null && typeof value === "object") {
      Object.values(value).forEach(collect);
    }
  };
  collect(books);
  return entries.length;
}

for (const [name, transport] of [
  ["Connect with JSON", createConnectTransport({ baseUrl, httpVersion: "1.1", interceptors: [authorize(token)] })],
  ["Connect with protobuf", createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true, interceptors: [authorize(token)] })],
  ["Connect over HTTP/2", createConnectTransport({ baseUrl, httpVersion: "2", interceptors: [authorize(token)] })],
  ["gRPC-Web", createGrpcWebTransport({ baseUrl, httpVersion: "1.1", interceptors: [authorize(token)] })],
]) {
  test(`Node: ${name}`, async () => {
    const order = nextOrder();
    assert.deepEqual(await refund(transport, `node-${order}`, order), expected);
    assert.equal(await effects(order), 1);
  });
}

test("Node: without a token", async () => {
  const order = nextOrder();
  for (const create of [createConnectTransport, createGrpcWebTransport]) {
    const refused = await failure(refund(create({ baseUrl, httpVersion: "1.1" }), `none-${order}`, order));
    assert.equal(refused.code, "Unauthenticated");
  }
  assert.equal(await effects(order), 0);
});

test("Chromium", async (context) => {
  const page = readFileSync("build/page.js");
  const serve = (port) => {
    const server = createServer((request, response) => {
      const isScript = request.url === "/page.js";
      response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
      response.end(isScript ? page : '<!doctype html><script type="module" src="/page.js"></script>');
    });
    return new Promise((resolve) => server.listen(Number(port), "127.0.0.1", () => resolve(server)));
  };
  const servers = await Promise.all([allowedPort, foreignPort].map(serve));
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
  context.after(async () => {
    await browser.close();
    servers.forEach((server) => server.close());
  });
  const open = async (port) => {
    const opened = await browser.newPage();
    await opened.goto(`http://127.0.0.1:${port}/`);
    await opened.waitForFunction(() => globalThis.refusedFromPage !== undefined);
    return opened;
  };
  const allowed = await open(allowedPort);
  for (const kind of ["connect", "grpcWeb"]) {
    await context.test(`a page of an allowed origin: ${kind}`, async () => {
      const order = nextOrder();
      const call = { kind, baseUrl, token, refundId: `page-${order}`, order };
      assert.deepEqual(await allowed.evaluate((call) => globalThis.refundFromPage(call), call), expected);
      assert.equal(await effects(order), 1);
    });
  }
  const foreign = await open(foreignPort);
  for (const kind of ["connect", "grpcWeb"]) {
    await context.test(`a page of a foreign origin: ${kind}`, async () => {
      const order = nextOrder();
      const call = { kind, baseUrl, token, refundId: `foreign-${order}`, order };
      const refused = await foreign.evaluate((call) => globalThis.refusedFromPage(call), call);
      assert.equal(refused.reason, undefined, "the page reads nothing");
      assert.equal(await effects(order), 0);
    });
  }
});

test("the OpenAPI document is valid", async () => {
  const document = await (await fetch(`${baseUrl}/openapi.json`)).json();
  const validator = new Validator();
  const { valid, errors } = await validator.validate(document);
  assert.ok(valid, JSON.stringify(errors, null, 2));
  assert.equal(validator.version, "3.1");
});
