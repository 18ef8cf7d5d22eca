/** What callers hear when the server or its database fails: real connections, cut where it hurts. */
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { create } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { CreateOrganisationRequestSchema, OrganisationSchema, OrganisationService } from "@bowline/contract/identity";
import { openDatabase } from "@bowline/db";
import { newId } from "@bowline/kernel";
import { atEnd, freePort, type TestDatabase, testDatabase } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { sql } from "kysely";
import { type Principal, systemPrincipal } from "./context.ts";
import { once } from "./idempotency.ts";
import { inProcess, reasonOf } from "./in-process.ts";
import { problemOf } from "./problems.ts";
import { type Db, transact, type Work } from "./transactions.ts";

const admin: Principal = { ...systemPrincipal, kind: "service-account", id: "sa_1", name: "admin" };

/** The organisations service with one handler; what it throws goes the way of every error. */
function calling(handler: () => Promise<never>) {
  const logged: object[] = [];
  const api = inProcess((router) => router.service(OrganisationService, { getOrganisation: handler }), {
    authenticate: async () => admin,
    log: { info: () => undefined, error: (fields) => void logged.push(fields) },
  });
  return { call: () => api.as(OrganisationService).getOrganisation({ id: "one" }), logged };
}

test("a defect is INTERNAL: the caller hears an id and nothing else, the log has the cause", async () => {
  const defect = new TypeError("cannot read secret of undefined");
  const { call, logged } = calling(() => Promise.reject(defect));
  const error = ConnectError.from(await call().catch((failure: unknown) => failure));
  expect(await reasonOf(Promise.reject(error))).toBe("INTERNAL");
  expect(error.message).not.toContain("secret");
  expect(error.metadata.get("x-request-id")).toMatch(/^req_/);
  expect(logged).toMatchObject([{ error: defect, requestId: error.metadata.get("x-request-id") }]);
});

test("a database that nobody answers for is DATABASE_UNAVAILABLE, with a time to wait", async () => {
  const away = openDatabase({
    address: { host: "127.0.0.1", port: await freePort(), user: "nobody", database: "none" },
    applicationName: "test",
  });
  atEnd(() => away.end());
  const { call } = calling(() => sql`SELECT 1`.execute(away.db) as Promise<never>);
  const error = ConnectError.from(await call().catch((failure: unknown) => failure));
  expect(await reasonOf(Promise.reject(error))).toBe("DATABASE_UNAVAILABLE");
  expect(error.metadata.get("retry-after")).toBe("2");
});

test("a connection that is lost before COMMIT is DATABASE_UNAVAILABLE, and nothing was done", async () => {
  const database = await testDatabase();
  const other = database.open();
  const lost = transact(database.db, async ({ tx }) => {
    await insertOrganisation(tx, "one");
    const { rows } = await sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`.execute(tx);
    await sql`SELECT pg_terminate_backend(${rows[0]?.pid})`.execute(other.db);
    await insertOrganisation(tx, "two");
  });
  const error = await lost.catch((failure: unknown) => failure);
  expect(problemOf(error).reason).toBe("DATABASE_UNAVAILABLE");
  expect(await names(other.db)).toEqual([]);
});

test("a connection that is lost at COMMIT is COMMIT_UNKNOWN; repeated with its key, the work is done once", async () => {
  const database = await testDatabase();
  const proxy = await cuttingCommits(database);
  const { db, end } = openDatabase({ address: proxy.address, applicationName: "through a proxy" });
  atEnd(end);
  const make = () =>
    once(
      db,
      {
        principal: admin,
        method: "CreateOrganisation",
        key: "r1",
        request: create(CreateOrganisationRequestSchema, { organisation: { name: "one" } }),
        requestSchema: CreateOrganisationRequestSchema,
        responseSchema: OrganisationSchema,
      },
      async ({ tx }) => create(OrganisationSchema, { id: await insertOrganisation(tx, "one"), name: "one" }),
    );
  proxy.cutNext();
  await expect(make()).rejects.toMatchObject({ reason: "COMMIT_UNKNOWN", retryAfterMs: expect.any(Number) });
  expect(await names(database.db)).toEqual(["one"]); // it was done: only the answer got lost
  expect(await make()).toMatchObject({ name: "one" });
  expect(await names(database.db)).toEqual(["one"]);
});

test("nothing that was to follow a commit happens where the commit is unknown", async () => {
  const database = await testDatabase();
  const proxy = await cuttingCommits(database);
  const { db, end } = openDatabase({ address: proxy.address, applicationName: "through a proxy" });
  atEnd(end);
  let followed = 0;
  const body = async (work: Work) => {
    await insertOrganisation(work.tx, "one");
    work.after(() => (followed += 1));
  };
  proxy.cutNext();
  await expect(transact(db, body)).rejects.toMatchObject({ reason: "COMMIT_UNKNOWN" });
  expect(followed).toBe(0);
});

async function insertOrganisation(db: Db, name: string): Promise<string> {
  const id = newId("org");
  await db.insertInto("organisations").values({ id, name }).execute();
  return id;
}

async function names(db: Db): Promise<string[]> {
  const rows = await db.selectFrom("organisations").select("name").orderBy("name").execute();
  return rows.map((row) => row.name);
}

/** A way to the database that, when told to, hands a COMMIT on and cuts the connection at its answer. */
async function cuttingCommits(database: TestDatabase) {
  let cutNext = false;
  const sockets = new Set<Socket>();
  const remember = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket)).on("error", () => socket.destroy());
    return socket;
  };
  const url = typeof database.address === "string" ? new URL(database.address) : undefined;
  const target =
    typeof database.address === "string"
      ? { host: url?.hostname ?? "", port: Number(url?.port) }
      : database.address.host.startsWith("/")
        ? { path: `${database.address.host}/.s.PGSQL.${database.address.port}` }
        : { host: database.address.host, port: database.address.port };
  const server = createServer((client) => {
    remember(client);
    const upstream = remember(connect(target));
    let committing = false;
    client.on("data", (bytes: Buffer) => {
      committing ||= cutNext && /commit/i.test(bytes.toString("latin1"));
      upstream.write(bytes);
    });
    upstream.on("data", (bytes: Buffer) => {
      if (!committing) return void client.write(bytes);
      cutNext = false;
      client.destroy();
    });
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  const { port } = server.address() as AddressInfo;
  const address =
    url === undefined && typeof database.address !== "string"
      ? { ...database.address, host: "127.0.0.1", port }
      : Object.assign(new URL(url ?? ""), { host: `127.0.0.1:${port}` }).href;
  return { address, cutNext: () => void (cutNext = true) };
}

test("what the database undoes for other work, also where it was no transaction of ours, is DATABASE_UNAVAILABLE and may be repeated", async () => {
  const { open } = await testDatabase();
  const [one, other] = [open().db, open().db];
  await sql`CREATE TABLE x AS SELECT 1 AS id`.execute(one);
  await sql`CREATE TABLE y AS SELECT 1 AS id`.execute(one);
  const crosswise = (db: Db, first: string, second: string, locked: PromiseWithResolvers<void>, go: Promise<void>) =>
    db.transaction().execute(async (tx) => {
      await sql`LOCK TABLE ${sql.table(first)}`.execute(tx);
      locked.resolve();
      await go;
      await sql`LOCK TABLE ${sql.table(second)}`.execute(tx);
    });
  const [a, b] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const ends = await Promise.allSettled([
    crosswise(one, "x", "y", a, b.promise),
    crosswise(other, "y", "x", b, a.promise),
  ]);
  const lost = ends.flatMap((end) => (end.status === "rejected" ? [problemOf(end.reason)] : []));
  expect(lost).toMatchObject([{ reason: "DATABASE_UNAVAILABLE", retryAfterMs: 1_000 }]);
});
