import { afterEach, expect, test } from "@jest/globals";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:http2";
import { promisify } from "node:util";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ServiceImpl } from "@connectrpc/connect";
import { CommandService } from "@bowline/contract/commands";
import type { WatchCommandsRequest, WatchCommandsResponse } from "@bowline/contract/commands";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import { startScripted } from "./scripted-server.ts";
import type { ScriptedServer } from "./scripted-server.ts";

const run = promisify(execFile);
const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

type Watch = ServiceImpl<typeof CommandService>["watchCommands"];

async function serve(watch: Watch, options: Parameters<typeof startScripted>[1] = {}): Promise<ScriptedServer> {
  const server = await startScripted(
    (router) => void router.service(CommandService, { watchCommands: watch }),
    options,
  );
  ends.push(() => server.close());
  return server;
}

const path = "/v1/operator/commands:watch";

async function* three(): AsyncGenerator<Partial<Pick<WatchCommandsResponse, "cursor" | "snapshotEnd">>> {
  yield { cursor: "1" };
  yield { cursor: "2", snapshotEnd: true };
  yield { cursor: "" };
}

/** Resolves when the handler's signal aborts, or has, as a watch without news does. */
function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

/** Reads until what came contains `text`; the stream stays open. */
async function readUntil(body: ReadableStream<Uint8Array> | null, text: string): Promise<string> {
  let all = "";
  const decoder = new TextDecoder();
  for await (const chunk of body?.values({ preventCancel: true }) ?? []) {
    all += decoder.decode(chunk, { stream: true });
    if (all.includes(text)) return all;
  }
  return all;
}

test("a stream is NDJSON: one message a line", async () => {
  const server = await serve(three);
  const answer = await fetch(server.url + path);
  expect(answer.headers.get("content-type")).toBe("application/x-ndjson");
  const lines = (await answer.text()).trimEnd().split("\n");
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    { cursor: "1", snapshotEnd: false },
    { cursor: "2", snapshotEnd: true },
    { cursor: "", snapshotEnd: false },
  ]);
});

test("a client that accepts server-sent events gets them, with the cursor as their id", async () => {
  const server = await serve(three);
  const answer = await fetch(server.url + path, { headers: { accept: "text/event-stream" } });
  expect(answer.headers.get("content-type")).toBe("text/event-stream");
  expect(await answer.text()).toBe(
    'id: 1\ndata: {"cursor":"1","snapshotEnd":false}\n\n' +
      'id: 2\ndata: {"cursor":"2","snapshotEnd":true}\n\n' +
      'data: {"cursor":"","snapshotEnd":false}\n\n',
  );
});

test("a client that comes back goes on after what it saw last", async () => {
  const seen: WatchCommandsRequest[] = [];
  const server = await serve(async function* (request) {
    seen.push(request);
    yield* three();
  });
  const headers = { accept: "text/event-stream", "last-event-id": "41" };
  await (await fetch(`${server.url}${path}?cursor=7&cluster_id=eu`, { headers })).text();
  await (await fetch(`${server.url}${path}?cursor=7`)).text();
  expect(seen).toMatchObject([{ cursor: "41", clusterId: "eu" }, { cursor: "7" }]);
});

test("a failure before the first message has its own status; a later one is the last line", async () => {
  let first = true;
  const expired = (): ConnectError =>
    new ConnectError("too old", Code.OutOfRange, undefined, [
      { desc: ErrorInfoSchema, value: { reason: "CURSOR_EXPIRED", domain: "bowline" } },
    ]);
  const server = await serve(async function* () {
    if (first) throw expired();
    yield { cursor: "1" };
    throw expired();
  });
  const early = await fetch(server.url + path);
  expect([early.status, await early.json()]).toMatchObject([400, { reason: "CURSOR_EXPIRED" }]);
  first = false;
  const late = await fetch(server.url + path);
  expect(late.status).toBe(200);
  expect(JSON.parse((await late.text()).split("\n")[1] ?? "")).toMatchObject({
    error: { code: "out_of_range", reason: "CURSOR_EXPIRED" },
  });
  const events = await fetch(server.url + path, { headers: { accept: "text/event-stream" } });
  expect(await events.text()).toMatch(/\n\nevent: error\ndata: \{"code":"out_of_range".*\}\n\n$/);
});

test("a quiet stream sends its head, then heartbeats that no reader takes for a message", async () => {
  const quiet: Watch = async function* (_, context) {
    await untilAborted(context.signal);
    yield* [];
  };
  const server = await serve(quiet, { limits: { streamHeadWithinMs: 10, heartbeatMs: 20 } });
  for (const [accept, text] of [
    ["application/x-ndjson", "\n\n"],
    ["text/event-stream", ": still here\n\n"],
  ] as const) {
    const client = new AbortController();
    const answer = await fetch(server.url + path, { headers: { accept }, signal: client.signal });
    expect(await readUntil(answer.body, text)).toContain(text);
    client.abort();
  }
});

test.each([{ http2: false }, { http2: true }])(
  "a handler's signal aborts when its client goes: %j",
  async ({ http2 }) => {
    const aborted = Promise.withResolvers<void>();
    const endless: Watch = async function* (_, context) {
      yield { cursor: "1" };
      await untilAborted(context.signal);
      aborted.resolve();
    };
    const server = await serve(endless, { http2 });
    if (http2) {
      const session = connect(server.url);
      const stream = session.request({ ":path": path });
      await once(stream, "data");
      stream.close();
      await aborted.promise;
      session.destroy();
    } else {
      const client = new AbortController();
      const answer = await fetch(server.url + path, { signal: client.signal });
      await readUntil(answer.body, "cursor");
      client.abort();
      await aborted.promise;
    }
    expect(server.logged).toEqual([]);
  },
);

test("a server that drains ends its streams cleanly and aborts their handlers", async () => {
  const draining = new AbortController();
  const aborted = Promise.withResolvers<void>();
  const endless: Watch = async function* (_, context) {
    yield { cursor: "1" };
    await untilAborted(context.signal);
    aborted.resolve();
  };
  const server = await serve(endless, { draining: draining.signal });
  const answer = await fetch(server.url + path);
  const text = answer.text();
  draining.abort();
  expect(await text).toMatch(/^(\{"cursor":"1","snapshotEnd":false\}\n)?$/);
  await aborted.promise;
});

test("a slow reader slows the handler down; one that takes nothing is closed", async () => {
  const sent = { count: 0 };
  const aborted = Promise.withResolvers<void>();
  const flood: Watch = async function* (_, context) {
    context.signal.addEventListener("abort", () => aborted.resolve());
    for (; !context.signal.aborted; sent.count += 1) yield { cursor: "x".repeat(10_000) };
  };
  const server = await serve(flood, { limits: { stalledWithinMs: 300 }, http2: true });
  const session = connect(server.url);
  session.on("error", () => {}); // being cut off is what is tested
  const stream = session.request({ ":path": path });
  stream.on("error", () => {}); // as above
  await once(stream, "response");
  await aborted.promise;
  expect(sent.count).toBeLessThan(100); // 64 KiB of window and what the buffers between hold, not all there is
  session.destroy();
});

test("more streams than the limit are refused, and told when to come back", async () => {
  const server = await serve(
    async function* (_, context) {
      yield { cursor: "1" };
      await untilAborted(context.signal);
    },
    { limits: { maxStreams: 1 } },
  );
  const client = new AbortController();
  const first = await fetch(server.url + path, { signal: client.signal });
  await readUntil(first.body, "cursor");
  const second = await fetch(server.url + path);
  expect([second.status, second.headers.get("retry-after"), await second.json()]).toMatchObject([
    429,
    "5",
    { reason: "OVERLOADED" },
  ]);
  client.abort();
});

test("HEAD of a stream is 405", async () => {
  const server = await serve(three);
  const answer = await fetch(server.url + path, { method: "HEAD" });
  expect([answer.status, answer.headers.get("allow")]).toEqual([405, "GET, OPTIONS"]);
});

test("curl reads a stream over both protocols", async () => {
  for (const http2 of [false, true]) {
    const server = await serve(three, { http2 });
    const args = ["-sN", http2 ? "--http2-prior-knowledge" : "--http1.1", server.url + path];
    expect((await run("curl", args)).stdout.trimEnd().split("\n")).toHaveLength(3);
  }
});
