/**
 * Watches over every protocol and over two replicas: nothing is skipped, also
 * where transactions commit in another order than they began; and who comes
 * back later than events are kept is told so, and how to go on.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { AuditService } from "@bowline/contract/audit";
import { OrganisationService } from "@bowline/contract/identity";
import {
  atEnd,
  databaseProxy,
  startProcess,
  startServer,
  startTcpProxy,
  type TcpProxy,
  temporaryFolder,
  testDatabase,
  type TestServer,
  until,
} from "@bowline/testing";
import { sql } from "kysely";
import { programs } from "./fixture.ts";

let a: TestServer;
let b: TestServer;
/** Between the second server and the database. */
let way: TcpProxy;

beforeAll(async () => {
  const database = await testDatabase();
  const flags = ["--history-every-ms", "200"];
  a = await startServer({ database, flags });
  const proxy = await databaseProxy(database);
  way = proxy;
  b = await startServer({ beside: a, databaseUrl: proxy.url, flags });
}, 120_000);

const make = (server: TestServer, name: string) =>
  server.client(OrganisationService).createOrganisation({ organisation: { name } });

/** One message of a watch of audit events, whatever the protocol. */
interface Said {
  auditEvent?: { after?: unknown } | undefined;
  cursor?: string | undefined;
}

interface Watch {
  /** Names of the organisations whose making it told, in its order. */
  names: string[];
  cursor: () => string;
  /** It has told what there was when it began. */
  began: () => boolean;
}

function collect(messages: (signal: AbortSignal) => AsyncIterable<Said>): Watch {
  const stop = new AbortController();
  const names: string[] = [];
  let cursor = "";
  let began = false;
  const following = (async () => {
    try {
      for await (const said of messages(stop.signal)) {
        const name = (said.auditEvent?.after as { name?: string } | undefined)?.name;
        if (name !== undefined) names.push(name);
        if (said.cursor) cursor = said.cursor;
        began ||= !said.auditEvent; // the first without one ends the snapshot
      }
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    }
  })();
  atEnd(async () => {
    stop.abort();
    await following;
  });
  return { names, cursor: () => cursor, began: () => began };
}

const path = "/v1/operator/audit-events:watch";
const headersOf = (server: TestServer) => ({ authorization: `Bearer ${server.adminToken}` });

/** A stock gRPC client. */
function grpc(server: TestServer): Client<typeof AuditService> {
  const authorize: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${server.adminToken}`);
    return next(request);
  };
  const transport = createGrpcTransport({ baseUrl: server.url, interceptors: [authorize] });
  return createClient(AuditService, transport);
}

async function* rest(server: TestServer, accept: string, cursor: string, signal: AbortSignal): AsyncGenerator<Said> {
  const answer = await fetch(`${server.url}${path}?cursor=${cursor}`, {
    headers: { ...headersOf(server), accept },
    signal,
  });
  if (answer.status !== 200) throw new Error(await answer.text());
  let text = "";
  for await (const chunk of answer.body ?? []) {
    text += Buffer.from(chunk).toString();
    const lines = text.split("\n");
    text = lines.pop() ?? "";
    for (const line of lines) {
      const json = accept === "text/event-stream" ? /^data: (.*)$/.exec(line)?.[1] : line;
      if (json) yield JSON.parse(json) as Said;
    }
  }
}

const ways = ["Connect", "gRPC", "NDJSON", "server-sent events"] as const;

function watchBy(by: (typeof ways)[number], server: TestServer, cursor = ""): Watch {
  switch (by) {
    case "Connect":
      return collect((signal) => server.client(AuditService).watchAuditEvents({ cursor }, { signal }));
    case "gRPC":
      return collect((signal) => grpc(server).watchAuditEvents({ cursor }, { signal }));
    case "NDJSON":
      return collect((signal) => rest(server, "application/x-ndjson", cursor, signal));
    default:
      return collect((signal) => rest(server, "text/event-stream", cursor, signal));
  }
}

test("of two transactions that commit in the other order every watch, on both replicas and over each protocol, tells both", async () => {
  const watches = ways.flatMap((by) => [watchBy(by, a), watchBy(by, b)]);
  await until(() => watches.every((watch) => watch.began()), { what: "all watches to begin" });
  const trap = way.trap({ up: "begun-first" }, { up: "commit" });
  const first = make(b, "begun-first");
  const held = await trap.caught;
  await make(a, "committed-first");
  await until(() => watches.every(({ names }) => names.includes("committed-first")), {
    what: "the one that committed",
  });
  for (const { names } of watches) expect(names).not.toContain("begun-first");
  const cursors = watches.map((watch) => watch.cursor());
  held.release();
  await first;
  await until(() => watches.every(({ names }) => names.includes("begun-first")), { what: "the one that was held" });
  // Also for whoever left in between, and goes on at the other replica.
  const resumed = cursors.map((cursor, index) => watchBy("Connect", index % 2 === 0 ? b : a, cursor));
  await until(() => resumed.every(({ names }) => names.includes("begun-first")), { what: "those that went on" });
});

test("many commits at once on both replicas: each is told once or more, in the same order, to all", async () => {
  const watches = ways.map((by, index) => watchBy(by, index % 2 === 0 ? a : b));
  await until(() => watches.every((watch) => watch.began()));
  const names = Array.from({ length: 40 }, (_, index) => `many-${index}`);
  await Promise.all(names.map((name, index) => make(index % 2 === 0 ? a : b, name)));
  const told = (watch: Watch) => watch.names.filter((name) => name.startsWith("many-"));
  await until(() => watches.every((watch) => new Set(told(watch)).size === names.length), { what: "all of them" });
  const [order] = watches.map((watch) => [...new Set(told(watch))]);
  for (const watch of watches) expect([...new Set(told(watch))]).toEqual(order);
});

/** As if everything that was told so far had happened three days ago; waits until retention has taken it. */
async function letExpire(): Promise<void> {
  const { db } = a.database;
  const unplaced = db.selectFrom("event_sets").select("id");
  await until(async () => (await unplaced.executeTakeFirst()) === undefined, { what: "every event to have its place" });
  const { rows } = await sql<{ last: number }>`
    WITH aged AS (UPDATE events SET created_at = created_at - interval '3 days' WHERE position IS NOT NULL RETURNING position)
    SELECT max(position) AS last FROM aged`.execute(db);
  await until(
    async () => (await db.selectFrom("event_floor").select("position").executeTakeFirst())?.position === rows[0]?.last,
    { what: "retention to take them" },
  );
}

test("a cursor whose events are gone is refused with CURSOR_EXPIRED and what to do, over each protocol; a watch that is up to date goes on", async () => {
  const upToDate = watchBy("NDJSON", a);
  await until(() => upToDate.began());
  const cursor = upToDate.cursor();
  await make(a, "soon-gone");
  await until(() => upToDate.names.includes("soon-gone"));
  await letExpire();
  for (const server of [a, b]) {
    for (const client of [server.client(AuditService), grpc(server)]) {
      const [said] = await Promise.allSettled([client.watchAuditEvents({ cursor })[Symbol.asyncIterator]().next()]);
      expect(said).toMatchObject({
        status: "rejected",
        reason: { message: expect.stringContaining("without a cursor") },
      });
    }
    for (const accept of ["application/x-ndjson", "text/event-stream"]) {
      // As a browser comes back: with the id of the last event that it saw.
      const answer = await fetch(`${server.url}${path}`, {
        headers: { ...headersOf(server), accept, "last-event-id": cursor, connection: "close" },
      });
      expect([answer.status, await answer.json()]).toMatchObject([
        400,
        { reason: "CURSOR_EXPIRED", message: expect.stringContaining("without a cursor") },
      ]);
    }
  }
  const anew = watchBy("server-sent events", b);
  await until(() => anew.began() && anew.names.includes("soon-gone"), { what: "the snapshot to have it" });
  await make(b, "afterwards");
  await until(() => [upToDate, anew].every(({ names }) => names.includes("afterwards")), { what: "both to go on" });
});

test("bowline command watch, cut off for longer than events are kept, goes on by itself: what began and what ended is shown", async () => {
  const road = await startTcpProxy({ host: "127.0.0.1", port: Number(new URL(a.url).port) });
  const agent = await a.scriptedAgent({ cluster: "far" });
  await a.operator.publish("before", { to: "far" });
  const command = await agent.nextCommand();
  await agent.receive(command);
  const watching = startProcess({
    command: ["node", programs.cli, "command", "watch", "-o", "json"],
    env: {
      XDG_CONFIG_HOME: temporaryFolder(),
      BOWLINE_URL: `http://${road.host}:${road.port}`,
      BOWLINE_TOKEN: a.adminToken,
    },
  });
  const shown = () =>
    watching
      .stdout()
      .split("\n")
      .flatMap((line) =>
        line.startsWith("{") && line.endsWith("}") ? [JSON.parse(line) as { id: string; state: string }] : [],
      );
  const tells = (id: string, state: string) => shown().some((one) => one.id === id && one.state === state);
  await until(() => tells(command.commandId, "RUNNING"), { what: "the command to be shown" });
  road.cut();
  await agent.report(command, { succeeded: true });
  const second = await agent.nextCommand(); // of the routes, behind the data plane
  await until(async () => (await a.operator.command(command.commandId)).endedAt !== undefined);
  await letExpire();
  road.mend();
  await until(() => tells(command.commandId, "SUCCEEDED"), { what: "the end that came meanwhile" });
  await agent.receive(second);
  await until(() => tells(second.commandId, "RUNNING"), { what: "the watch to go on" });
  await until(() => watching.stderr().includes("no longer kept"), { what: "the reason to be told" });
});
