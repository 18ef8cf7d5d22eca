import { afterEach, expect, test } from "@jest/globals";
import { execFile } from "node:child_process";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { connect as connectHttp2, constants } from "node:http2";
import type { ClientHttp2Session } from "node:http2";
import { connect as connectTcp } from "node:net";
import type { Socket } from "node:net";
import { promisify } from "node:util";
import { listen } from "./port.ts";
import type { Port, PortHandler, PortOptions } from "./port.ts";

const run = promisify(execFile);
const ends: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const quiet = { debug() {}, warn() {}, error() {} };

/** Says which protocol it was, and how many bytes the body had. */
const echo: PortHandler = async (request, response) => {
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) bytes += chunk.length;
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ version: request.httpVersion, url: request.url, bytes }));
};

async function open(options: Partial<PortOptions> = {}): Promise<Port> {
  const port = await listen({ host: "127.0.0.1", port: 0, handler: echo, log: quiet, ...options });
  ends.push(() => port.close(0));
  return port;
}

function raw(port: Port): Socket {
  const socket = connectTcp(port.port, "127.0.0.1");
  socket.on("error", () => {}); // being reset is what these tests are about
  ends.push(() => void socket.destroy());
  return socket;
}

function session(port: Port): ClientHttp2Session {
  const client = connectHttp2(port.url);
  client.on("error", () => {}); // as above
  ends.push(() => client.destroy());
  return client;
}

/** All that a socket answers until it is closed. */
async function untilClosed(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  await new Promise<void>((resolve) => socket.once("close", () => resolve()));
  return text;
}

async function get(client: ClientHttp2Session, path: string, body?: Buffer): Promise<{ status: number; text: string }> {
  const stream = client.request({ ":path": path, ":method": body === undefined ? "GET" : "POST" });
  stream.end(body);
  const [headers] = (await once(stream, "response")) as [Record<string, number>];
  let text = "";
  for await (const chunk of stream) text += String(chunk);
  return { status: headers[":status"] ?? 0, text };
}

test("one port answers fetch over HTTP/1.1, and curl and node:http2 over HTTP/2", async () => {
  const port = await open();
  expect(await (await fetch(`${port.url}/a`)).json()).toEqual({ version: "1.1", url: "/a", bytes: 0 });
  const curl = await run("curl", ["-s", "--http2-prior-knowledge", `${port.url}/b`]);
  expect(JSON.parse(curl.stdout)).toEqual({ version: "2.0", url: "/b", bytes: 0 });
  expect(JSON.parse((await get(session(port), "/c")).text)).toEqual({ version: "2.0", url: "/c", bytes: 0 });
});

test("bodies arrive whole in both protocols, also behind a preface in the same packet", async () => {
  const port = await open();
  const body = Buffer.alloc(3 << 20, "x");
  const posted = await fetch(port.url, { method: "POST", body });
  expect(await posted.json()).toMatchObject({ version: "1.1", bytes: body.length });
  expect(JSON.parse((await get(session(port), "/", body)).text)).toMatchObject({ version: "2.0", bytes: body.length });
});

test("a client that offers to upgrade to h2c is answered in HTTP/1.1", async () => {
  const port = await open();
  const { stdout } = await run("curl", ["-s", "--http2", `${port.url}/b`]);
  expect(JSON.parse(stdout)).toEqual({ version: "1.1", url: "/b", bytes: 0 });
});

test("a preface that comes byte by byte is HTTP/2; a request that comes byte by byte is HTTP/1.1", async () => {
  const port = await open();
  const two = raw(port);
  for (const byte of "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") await write(two, byte);
  two.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])); // empty SETTINGS
  const [frame] = (await once(two, "data")) as [Buffer];
  expect(frame[3]).toBe(4); // the server's SETTINGS

  const one = raw(port);
  const answered = untilClosed(one);
  for (const byte of "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
    await write(one, byte);
  expect(await answered).toContain('"bytes":2');
});

test("a client that ends its side after the request is still answered", async () => {
  const port = await open();
  const socket = raw(port);
  const answered = untilClosed(socket);
  socket.end("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
  expect(await answered).toContain("200 OK");
});

test("random bytes are closed, and do not disturb others", async () => {
  const port = await open();
  const client = session(port);
  for (let seed = 1; seed <= 20; seed++) {
    const socket = raw(port);
    const closed = untilClosed(socket);
    socket.write(Uint8Array.from({ length: 4096 }, (_, at) => (seed * 7919 + at * 104729) % 256));
    await closed;
    expect((await get(client, "/")).status).toBe(200);
  }
});

test("silence and half a preface are closed within the named time", async () => {
  const port = await open({ limits: { decideWithinMs: 100 } });
  const silent = raw(port);
  const half = raw(port);
  half.write("PRI * HTTP/2.0\r\n");
  expect(await Promise.all([untilClosed(silent), untilClosed(half)])).toEqual(["", ""]);
});

test("a header block that comes too slowly is answered 408 and closed", async () => {
  const port = await open({ limits: { headersWithinMs: 200 } });
  const socket = raw(port);
  const answered = untilClosed(socket);
  socket.write("GET / HTTP/1.1\r\n");
  const drip = setInterval(() => socket.write("a: b\r\n"), 20);
  expect(await answered).toContain("408");
  clearInterval(drip);
});

test("an endless header block is answered 431 in HTTP/1.1 and closed in HTTP/2", async () => {
  const port = await open();
  const one = raw(port);
  one.write("GET / HTTP/1.1\r\n");
  pour(one, Buffer.from(`a: ${"x".repeat(1000)}\r\n`));
  expect(await untilClosed(one)).toContain("431");

  const two = raw(port);
  two.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  two.write(frame(4, 0, 0, Buffer.alloc(0)));
  two.write(frame(1, 0, 1, Buffer.from([0x82]))); // HEADERS without END_HEADERS
  const literal = Buffer.concat([Buffer.from([0x10, 1, 0x61, 127, 0]), Buffer.alloc(127, "x")]); // a: xxx…
  pour(two, frame(9, 0, 1, literal));
  await untilClosed(two);
});

test("an HTTP/2 header block above the limit is answered 431, later ones are reset", async () => {
  const port = await open();
  const client = session(port);
  const big = "x".repeat(40_000);
  const stream = client.request({ ":path": "/", big });
  expect(await once(stream, "response")).toMatchObject([{ ":status": 431 }, expect.anything(), expect.anything()]);
  const [error] = (await once(client.request({ ":path": "/", big }), "error")) as [Error];
  expect(error.message).toContain("ENHANCE_YOUR_CALM");
  expect((await get(client, "/")).status).toBe(200);
});

test("an HTTP/2 peer that answers no ping is closed; one that does is kept", async () => {
  const port = await open({ limits: { pingEveryMs: 50, pingWithinMs: 200 } });
  const alive = session(port);
  const dead = raw(port);
  dead.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  dead.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]));
  await untilClosed(dead);
  expect((await get(alive, "/")).status).toBe(200);
});

test("an HTTP/2 session without streams is ended; one with a stream is kept", async () => {
  const port = await open({
    limits: { pingEveryMs: 40, idleHttp2Ms: 150 },
    handler: (request, response) => {
      startBody(response, "on");
      if (request.url !== "/endless") response.end();
    },
  });
  const busy = session(port);
  const stream = busy.request({ ":path": "/endless" });
  await once(stream, "data");
  const idle = session(port);
  await get(idle, "/");
  await once(idle, "close");
  expect(busy.closed).toBe(false);
  stream.close();
});

test("above the cap a new connection is refused and the others go on", async () => {
  const port = await open({ limits: { maxConnections: 1 } });
  const first = session(port);
  await get(first, "/");
  await untilClosed(raw(port));
  expect((await get(first, "/")).status).toBe(200);
});

test("more undecided connections than allowed close the oldest", async () => {
  const port = await open({ limits: { maxUndecided: 1 } });
  const oldest = raw(port);
  const closed = untilClosed(oldest);
  await once(oldest, "connect");
  const newest = raw(port);
  await closed;
  newest.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
  expect(await untilClosed(newest)).toContain("200 OK");
});

test("a WebSocket upgrade is refused", async () => {
  const port = await open();
  const socket = raw(port);
  const answered = untilClosed(socket);
  socket.write(
    "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: a\r\n\r\n",
  );
  expect(await answered).toContain("501");
});

test("closing lets open requests of both protocols finish and takes no new connection", async () => {
  const waiting: (() => void)[] = [];
  const port = await open({
    handler: (_request, response) => {
      waiting.push(() => void response.end("done"));
    },
  });
  const client = session(port);
  const goaway = once(client, "goaway");
  const answers = [
    get(client, "/"),
    fetch(port.url).then(async (answer) => ({ status: answer.status, text: await answer.text() })),
  ];
  while (waiting.length < 2) await new Promise(setImmediate);

  const closed = port.close(60_000);
  expect(await goaway).toEqual([constants.NGHTTP2_NO_ERROR, expect.anything(), undefined]);
  await expect(fetch(port.url)).rejects.toThrow();
  for (const finish of waiting) finish();
  expect(await Promise.all(answers)).toEqual([
    { status: 200, text: "done" },
    { status: 200, text: "done" },
  ]);
  await closed;
  expect(port.connections()).toBe(0);
});

test("what does not end within the grace is closed", async () => {
  const port = await open({ handler: (_request, response) => startBody(response, "on and on") });
  const client = session(port);
  const stream = client.request({ ":path": "/" });
  stream.on("error", () => {}); // it is cut, which is what is tested
  await once(stream, "data");
  const slow = raw(port);
  slow.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
  await once(slow, "data");
  await port.close(50);
  expect(port.connections()).toBe(0);
});

test("aborting the signal closes the port at once", async () => {
  const abort = new AbortController();
  const port = await listen({ host: "127.0.0.1", port: 0, handler: echo, log: quiet }, abort.signal);
  const client = session(port);
  await get(client, "/");
  abort.abort();
  await port.close(60_000);
  expect(port.connections()).toBe(0);
});

test("a port that another program has is PORT_IN_USE and says what to do", async () => {
  const { port } = await open();
  const second = listen({ host: "127.0.0.1", port, handler: echo, log: quiet });
  await expect(second).rejects.toMatchObject({
    reason: "PORT_IN_USE",
    message: `127.0.0.1:${port} is taken by another program: stop that program, or choose another port with --port (0: any free one)`,
  });
});

test("a handler that throws is answered 500 without its message", async () => {
  const port = await open({ handler: () => Promise.reject(new Error("secret")) });
  const answer = await fetch(port.url);
  expect([answer.status, await answer.text()]).toEqual([500, ""]);
});

function write(socket: Socket, text: string): Promise<void> {
  return new Promise((resolve) => socket.write(text, () => resolve()));
}

function startBody(response: Parameters<PortHandler>[1], text: string): void {
  (response as ServerResponse).write(text); // both have it, with overloads that do not unite
}

/** Sends the same bytes until the socket is closed. */
function pour(socket: Socket, bytes: Buffer): void {
  if (socket.destroyed) return;
  socket.write(bytes);
  setImmediate(() => pour(socket, bytes));
}

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(stream, 5);
  return Buffer.concat([header, payload]);
}
