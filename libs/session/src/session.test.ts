/** Both ends over a real HTTP/2 connection on loopback. */
import { connect, createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { create, toBinary } from "@bufbuild/protobuf";
import { createContextValues } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { afterEach, expect, test } from "@jest/globals";
import { AgentMessageSchema, AgentService, ServerMessageSchema } from "@bowline/contract/agent";
import { dialHttp2 } from "@bowline/dial";
import { systemClock } from "@bowline/kernel";
import { until } from "@bowline/testing";
import { acceptDuplex, acceptSession, hangUpKey, hangUpOf, type PushedSession } from "./accept.ts";
import { openSession, type AgentChannel } from "./open.ts";
import { createAgentTransport } from "./transport.ts";
import { createWire } from "./wire/index.ts";

const endings: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).toReversed()) await end();
});

type Serve = (session: PushedSession, context: { requestHeader: Pick<Headers, "get"> }) => Promise<void>;
type Bounds = { silenceMs?: number; stallMs?: number; maxQueued?: number };
type Carrier = "connect-node" | "our own wire";
const carriers: Carrier[] = ["connect-node", "our own wire"];

function overConnect(serve: Serve, bounds: Bounds): Http2Server {
  return createServer(
    connectNodeAdapter({
      readMaxBytes: 64 * 1024,
      contextValues: (request) => createContextValues().set(hangUpKey, hangUpOf(request)),
      routes: (router) =>
        router.service(AgentService, {
          async *connect(requests, context) {
            const hangUp = context.values.get(hangUpKey);
            const session = acceptSession(requests, { clock: systemClock, hangUp, ...bounds });
            void serve(session, context);
            yield* session.outgoing;
          },
        }),
    }),
  );
}

function overOwnWire(serve: Serve, bounds: Bounds): Http2Server {
  const other = (): Promise<never> => Promise.reject(new Error("not called here"));
  const wire = createWire(
    AgentService,
    {
      ...{ enroll: other, examine: other, fetchDeployments: other, rotateKey: other },
      async connect(duplex, call) {
        const session = acceptDuplex(duplex, { clock: systemClock, hangUp: () => call.hangUp(), ...bounds });
        void serve(session, call);
        await session.sent;
        const end = await session.ended;
        if (end.kind === "violated") throw end.problem;
      },
    },
    { limitBytes: 64 * 1024 },
  );
  const server = createServer();
  server.on("stream", (stream, headers) => wire.serve(stream, headers));
  return server;
}

async function serveOn(carrier: Carrier, given: Serve, bounds: Bounds = {}): Promise<string> {
  const sessions = new Set<ServerHttp2Session>();
  const served: Promise<void>[] = [];
  const serve: Serve = (session, context) => {
    const done = given(session, context);
    served.push(done);
    return done;
  };
  const server = carrier === "connect-node" ? overConnect(serve, bounds) : overOwnWire(serve, bounds);
  server.on("session", (session) => sessions.add(session));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  endings.push(async () => {
    for (const session of sessions) session.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
    await Promise.allSettled(served);
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const transportTo = (url: string) => createAgentTransport({ url, dial: (signal) => dialHttp2({ url }, { signal }) });

async function pair(
  carrier: Carrier,
  serve: Serve,
  bounds: { server?: Bounds; agent?: Bounds } = {},
): Promise<AgentChannel> {
  const stop = new AbortController();
  const transport = transportTo(await serveOn(carrier, serve, bounds.server));
  const channel = openSession(transport.stream, { assertion: "x", ...bounds.agent }, stop.signal);
  endings.push(async () => {
    stop.abort();
    await channel.released;
    transport.close();
  });
  return channel;
}

const greeting = create(AgentMessageSchema, { message: { case: "connectRequest", value: { processId: "p" } } });
const heartbeat = (number: number) => create(AgentMessageSchema, { message: { case: "heartbeat", value: { number } } });
const goodbye = create(AgentMessageSchema, { message: { case: "goodbye", value: { reason: "bye" } } });
const greeted = create(ServerMessageSchema, { message: { case: "connectResponse", value: { epoch: 3 } } });
const ack = (number: number) => create(ServerMessageSchema, { message: { case: "heartbeatAck", value: { number } } });

/** Greets, answers heartbeats, ends at goodbye. */
const polite: Serve = async (session) => {
  session.receive(({ message }) => {
    if (message.case === "connectRequest") session.send(greeted);
    if (message.case === "heartbeat") session.send(ack(message.value.number));
  });
  await session.ended;
};

test.each(carriers)("over %s messages go both ways, and goodbye ends both ends in order", async (carrier) => {
  let end: unknown;
  const channel = await pair(carrier, async (session, context) => {
    expect(context.requestHeader.get("authorization")).toBe("Bearer x");
    await polite(session, context);
    end = await session.ended;
  });
  channel.send(greeting);
  const seen: unknown[] = [];
  for await (const { message } of channel.messages) {
    seen.push(message.case);
    if (message.case === "connectResponse") channel.send(heartbeat(1));
    if (message.case === "heartbeatAck") {
      channel.send(goodbye);
      channel.close();
    }
  }
  await channel.released;
  expect(seen).toEqual(["connectResponse", "heartbeatAck"]);
  expect(await channel.ended).toEqual({ kind: "closed" });
  expect(end).toEqual({ kind: "peer-closed" });
});

test.each(carriers)(
  "over %s a message out of order ends the session with PROTOCOL_VIOLATION at both ends",
  async (carrier) => {
    let end: unknown;
    const channel = await pair(carrier, async (session, context) => {
      await polite(session, context);
      end = await session.ended;
    });
    channel.send(heartbeat(1));
    for await (const _ of channel.messages);
    expect(await channel.ended).toMatchObject({ kind: "failed" });
    expect(end).toMatchObject({ kind: "violated", problem: { reason: "PROTOCOL_VIOLATION" } });
  },
);

test.each(carriers)(
  "over %s a message above 64 KiB is refused to its sender, and the session goes on",
  async (carrier) => {
    const channel = await pair(carrier, polite);
    const large = create(AgentMessageSchema, { message: { case: "goodbye", value: { reason: "x".repeat(70_000) } } });
    channel.send(greeting);
    expect(channel.send(large)).toBe("too-large");
    channel.send(heartbeat(7));
    for await (const { message } of channel.messages) if (message.case === "heartbeatAck") break;
    expect((await channel.ended).kind).toBe("closed");
  },
);

test.each(carriers)("over %s a peer that says nothing ends as silent", async (carrier) => {
  const ends: unknown[] = [];
  const channel = await pair(
    carrier,
    async (session) => {
      session.receive(() => undefined);
      ends.push(await session.ended);
    },
    { agent: { silenceMs: 100 } },
  );
  channel.send(greeting);
  for await (const _ of channel.messages);
  expect(await channel.ended).toEqual({ kind: "silent", limitMs: 100 });
  await channel.released;
});

test.each(carriers)("over %s an agent that reads nothing is hung up on", async (carrier) => {
  const filler = create(ServerMessageSchema, {
    message: { case: "messageRefused", value: { message: "x".repeat(60_000) } },
  });
  let tell: (end: unknown) => void = () => {};
  const end = new Promise((resolve) => (tell = resolve));
  const url = await serveOn(
    carrier,
    async (session) => {
      session.send(greeted);
      for (let sent = 0; sent < 900; sent += 1) session.send(filler);
      tell(await session.ended);
    },
    { stallMs: 300 },
  );
  // A stock HTTP/2 client that never reads: connect-node's own takes everything into memory.
  const connection = connect(url);
  endings.push(() => connection.destroy());
  const stream = connection.request({
    ":method": "POST",
    ":path": "/bowline.agent.v1.AgentService/Connect",
    "content-type": "application/connect+proto",
    "connect-protocol-version": "1",
  });
  const closed = new Promise<void>((resolve) => stream.on("error", () => {}).once("close", resolve));
  const body = toBinary(AgentMessageSchema, greeting);
  stream.write(Buffer.concat([Buffer.from([0, 0, 0, 0, body.byteLength]), body]));
  expect(await end).toEqual({ kind: "stalled" });
  await closed;
});

test("a server that is not there fails the channel", async () => {
  const stop = new AbortController();
  const transport = transportTo("http://127.0.0.1:1");
  const channel = openSession(transport.stream, { assertion: "x" }, stop.signal);
  channel.send(greeting);
  for await (const _ of channel.messages);
  const end = await channel.ended;
  expect(end.kind).toBe("failed");
  await channel.released;
  transport.close();
});

test("a session that is given up before anybody reads it leaves no timer behind", async () => {
  const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
  const transport = transportTo("http://127.0.0.1:9");
  const before = timers();
  const stop = new AbortController();
  const channel = openSession(transport.stream, { assertion: "x" }, stop.signal);
  channel.send(create(AgentMessageSchema, { message: { case: "connectRequest", value: {} } }));
  expect(timers()).toBeGreaterThan(before);
  stop.abort();
  await channel.released;
  // Others of the process come and go; one that were left behind would run for ten seconds and more.
  await until(() => timers() <= before, { withinMs: 5_000 });
  transport.close();
});
