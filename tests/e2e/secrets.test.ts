/**
 * A secret from its provider to an upstream, with a proxy between agent and
 * server that reads everything, as one that ends TLS does.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect, createServer as createTcp, type Socket } from "node:net";
import { join } from "node:path";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { atEnd, testDatabase, until } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { sql } from "kysely";
import { refusal } from "./api.ts";
import { folderOfAnAgent, startAgent, startServer } from "./fixture.ts";
import { freshName, live, makePlace, offline, online, issueToken, type Place, publishIn } from "./operating.ts";
import { get } from "./requests.ts";

/** Passes everything on, and keeps a copy of both ways. */
async function startReader(target: string): Promise<{ url: string; read(): string }> {
  const { hostname, port } = new URL(target);
  const copies: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createTcp((agent) => {
    const upstream = connect(Number(port), hostname);
    for (const [from, to] of [
      [agent, upstream],
      [upstream, agent],
    ] as const) {
      sockets.add(from);
      from.on("data", (bytes: Buffer) => copies.push(bytes));
      from.on("error", () => to.destroy()); // the end of either is the other's
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    read: () => Buffer.concat(copies).toString("latin1"),
  };
}

/** Answers with the headers that it got. */
async function startMirror(): Promise<string> {
  const server = createServer((request, response) => response.end(JSON.stringify(request.headers)));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** The value as it could stand somewhere: as text, as base64 at any offset, as hexadecimal. */
function spellings(value: string): RegExp {
  const hex = Buffer.from(value).toString("hex");
  const base64 = [0, 1, 2].map((offset) =>
    Buffer.from("x".repeat(offset) + value)
      .toString("base64")
      .slice(offset === 0 ? 0 : 4, -4),
  );
  return new RegExp([value, hex, ...base64].map((one) => one.replaceAll(/[+/]/g, String.raw`\$&`)).join("|"), "i");
}

/** Of a folder that is in use: what goes away while it is looked at makes it look again. */
const filesIn = (folder: string) => until(() => lookAt(folder));

function lookAt(folder: string): { path: string; inode: number; mode: number; text: string }[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => {
      const { ino: inode, mode } = statSync(path);
      return { path, inode, mode: mode & 0o777, text: readFileSync(path, "latin1") };
    });
}

async function applyWithSecret(place: Place, product: string, backend: string, secret: string): Promise<void> {
  await place.api.products.applyProduct({
    manifest: {
      name: product,
      apiServices: [
        {
          name: "main",
          backends: [{ name: "keyed", url: backend, secretHeaders: [{ name: "X-Upstream-Key", secret }] }],
          routes: [
            { name: "all", matches: [{ path: { type: 2, value: `/${product}` } }], backends: [{ backend: "keyed" }] },
          ],
        },
      ],
    },
  });
}

test("a secret reaches the upstream; nothing between, no answer, no row, no log and no journal shows it", async () => {
  const first = "correct-horse-battery-1";
  const second = "staple-paper-clip-22222";
  const database = await testDatabase();
  const server = await startServer({ databaseUrl: database.url });
  const { api } = server;
  const place = await makePlace(api);
  const between = await startReader(server.url);
  const agent = startAgent(between.url, { token: await issueToken(place), dataDir: folderOfAnAgent() });
  await online(api, agent);
  const upstream = await startMirror();
  const product = freshName("keyed");
  const publish = async () => {
    const request = { productId: product, clusterId: place.clusterId, gatewayId: place.gatewayId };
    return live(api, (await api.publishes.createProductPublish(request)).id);
  };

  await applyWithSecret(place, product, upstream, "orders-key");
  expect(
    await reasonOf(
      api.publishes.createProductPublish({
        productId: product,
        clusterId: place.clusterId,
        gatewayId: place.gatewayId,
      }),
    ),
  ).toBe("SECRET_UNKNOWN");

  const made = await api.secrets.createSecret({ name: "orders-key", value: first });
  expect(made).toMatchObject({ name: "orders-key", version: 1 });
  expect(await reasonOf(api.secrets.createSecret({ name: "orders-key", value: "other" }))).toBe("ALREADY_EXISTS");
  const { url } = await publish();
  const seen = async (): Promise<unknown> => {
    const { body } = await get(`${url}/${product}`, { "x-upstream-key": "what a client sends" });
    return (JSON.parse(body) as Record<string, string>)["x-upstream-key"];
  };
  expect(await seen()).toBe(first);
  expect(await reasonOf(api.secrets.deleteSecret({ id: "orders-key" }))).toBe("SECRET_IN_USE");

  await api.secrets.setSecretValue({ id: "orders-key", value: second, etag: made.etag });
  expect(await reasonOf(api.secrets.setSecretValue({ id: "orders-key", value: "x", etag: made.etag }))).toBe(
    "STALE_ETAG",
  );
  expect(await seen()).toBe(first); // until it is published again
  const { publish: again } = await publish();
  expect(await seen()).toBe(second);
  await api.secrets.setSecretValue({ id: "orders-key", value: `${first}\nX-More: 1` });
  expect(await reasonOf(publish())).toBe("SECRET_UNFIT");

  // The agent and its data plane come back from their disk alone.
  await agent.kill();
  await offline(api, agent);
  const restarted = agent.again();
  await online(api, restarted);
  expect(await seen()).toBe(second);

  const shown = new RegExp([spellings(first).source, spellings(second).source].join("|"), "i");
  // What passed can be read: the header's name stands there beside the sealed value.
  expect(between.read()).toMatch(/X-Upstream-Key/);
  expect(between.read()).not.toMatch(shown);
  expect(JSON.stringify([await api.secrets.listSecrets({}), again], bigints)).not.toMatch(shown);
  const deployments = await api.deployments.listDeployments({});
  for (const { id } of deployments.deployments)
    expect(JSON.stringify(await api.deployments.getDeployment({ id }), bigints)).not.toMatch(shown);
  const audited = await api.audit.listAuditEvents({});
  expect(JSON.stringify(audited, bigints)).toMatch(/secret\.set-value/);
  expect(JSON.stringify(audited, bigints)).not.toMatch(shown);

  const { rows: tables } = await sql<{ name: string }>`
    SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'`.execute(database.db);
  const dump: string[] = [];
  for (const { name } of tables) {
    const { rows } = await sql<{ row: string }>`SELECT t::text AS row FROM ${sql.table(name)} AS t`.execute(
      database.db,
    );
    dump.push(...rows.map(({ row }) => row));
  }
  expect(dump.join("\n")).toMatch(/orders-key/);
  expect(dump.join("\n")).not.toMatch(shown);
  expect(server.process.output() + agent.process.output() + restarted.process.output()).not.toMatch(shown);

  const files = await filesIn(agent.dataDir);
  expect(files.find(({ path }) => path.endsWith("journal.log"))?.text).not.toMatch(shown);
  const holding = files.filter(({ text }) => shown.test(text));
  // The data plane comes back by itself, so its own file has it; nobody else can read that.
  expect(new Set(holding.map(({ inode, mode }) => `${inode} ${mode.toString(8)}`)).size).toBe(1);
  for (const { path, mode } of holding)
    expect([path, mode.toString(8)]).toEqual([expect.stringMatching(/\/config\/routes\//), "600"]);

  const { id } = await api.publishes.unpublishProductPublish({ id: again.id });
  await publishIn(api, id, State.UNPUBLISHED);
  await api.secrets.deleteSecret({ id: "orders-key" });
  expect(await reasonOf(api.secrets.getSecret({ id: "orders-key" }))).toBe("NOT_FOUND");
  const { auditEvents } = await api.audit.listAuditEvents({ actionPrefix: "secret.delete" });
  expect(auditEvents).toMatchObject([{ before: { name: "orders-key" } }]);
  expect(auditEvents[0]?.after).toBeUndefined();
  expect((await filesIn(agent.dataDir)).filter(({ text }) => shown.test(text))).toEqual([]);
}, 120_000);

async function reasonOf(call: Promise<unknown>): Promise<string> {
  return (await refusal(call)).reason;
}

function bigints(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? value.toString() : value;
}
